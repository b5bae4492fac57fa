package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"lockstep/internal/atonce"
	"lockstep/smr"
	"lockstep/smr/page"
	"lockstep/smr/session"
	"lockstep/smr/wire"

	"golang.org/x/sync/errgroup"
)

// pause is a growing pause between tries.
type pause struct{ least, most, next time.Duration }

// wait waits for a while, longer each time, or until early or ctx says so. Either may be nil. It reports whether ctx
// has not ended.
func (p *pause) wait(ctx context.Context, early <-chan struct{}) bool {
	p.next = min(max(p.next, p.least), p.most)
	timer := time.NewTimer(p.next)
	defer timer.Stop()
	p.next *= 2
	select {
	case <-timer.C:
	case <-early:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

func (p *pause) reset() { p.next = 0 }

// runLocal keeps the connection to the replicator beside this node. Errors it returns are final.
func (c *Client) runLocal(ctx context.Context) error {
	again := pause{least: localPauseMin, most: localPauseMax}
	logger := c.config.Logger.With("group", c.config.Group, "node", string(c.config.Node))
	said := ""
	for {
		welcomed, err := c.attachOnce(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if isFinal(err) {
			return err
		}
		if welcomed {
			again.reset()
		}
		if text := fmt.Sprint(err); welcomed || text != said {
			logger.Warn("replicator away", "why", text, "socket", c.config.SocketPath)
			said = text
		}
		if !again.wait(ctx, nil) {
			return nil
		}
	}
}

// isFinal reports whether trying again is of no use: we are at the wrong door, or the log does not reach us.
func isFinal(err error) bool {
	var rejected *wire.RejectedError
	if errors.As(err, &rejected) {
		return rejected.Code == smr.RejectForeign || rejected.Code == smr.RejectVersion
	}
	return errors.Is(err, ErrTrimmed) || errors.Is(err, ErrOtherStream) || errors.Is(err, ErrLevel) || errors.Is(err, wire.ErrVersion)
}

// attachOnce dials the replicator and listens to it until the connection ends. welcomed: it had been accepted.
func (c *Client) attachOnce(ctx context.Context) (welcomed bool, err error) {
	dialer := net.Dialer{Timeout: handshakePatience}
	conn, err := dialer.DialContext(ctx, "unix", c.config.SocketPath)
	if err != nil {
		return false, fmt.Errorf("dial the replicator: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	reader := wire.NewReader(atonce.NewReader(conn), wire.HelloLimit)
	welcome, err := c.greetReplicator(conn, reader)
	if err != nil {
		return false, fmt.Errorf("attach to the replicator: %w", err)
	}
	c.config.Logger.Info("replicator attached", "group", c.config.Group, "node", string(c.config.Node),
		"lsn", uint64(c.Applied()), "log", welcome.LogDir)
	_, before := c.view.load()
	c.applied.doubt(c.Applied(), before.attachments+1) // before anybody can know of it
	c.openPage(welcome.Page)
	c.view.attach(welcome.LogDir)
	defer func() {
		c.page.Store(nil)
		if c.view.detach() {
			c.post(event{input: &session.Writable{Writable: false}})
		}
	}()
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return c.tellProgress(inner, conn) })
	group.Go(func() error {
		defer conn.Close() // ends the writer too
		return c.hearStatus(conn, reader)
	})
	return true, group.Wait()
}

// openPage maps the page that the replicator shares. Without it reads ask.
func (c *Client) openPage(path string) {
	if path == "" {
		return
	}
	p, err := page.Open(path)
	if err != nil {
		c.config.Logger.Warn("no page of the replicator: reads ask it", "group", c.config.Group, "node", string(c.config.Node), "why", err.Error())
		return
	}
	c.page.Store(p)
}

func (c *Client) greetReplicator(conn net.Conn, reader *wire.Reader) (*smr.LocalWelcome, error) {
	if err := conn.SetDeadline(time.Now().Add(handshakePatience)); err != nil {
		return nil, err
	}
	// It names no checkpoint: that comes with the first report behind the proof that the state is of the stream of the log there.
	hello := &smr.LocalHello{Handshake: c.config.handshake(), Session: c.config.Session, Pid: c.config.Pid,
		KVAddr: c.config.KVAddr, AdminAddr: c.config.AdminAddr, Applied: c.Applied()}
	if _, err := conn.Write(wire.AppendMessage(nil, hello)); err != nil {
		return nil, err
	}
	welcome, err := wire.Expect[smr.LocalWelcome](reader)
	var rejected *wire.RejectedError
	if errors.As(err, &rejected) && rejected.Code == smr.RejectLevel {
		return nil, fmt.Errorf("%w: %s", ErrLevel, rejected.Reason)
	}
	if err != nil {
		return nil, err
	}
	if reject := wire.CheckHandshake(welcome.Handshake, c.config.handshake()); reject != nil {
		return nil, &wire.RejectedError{Reject: *reject}
	}
	reader.SetLimit(wire.LocalLimit)
	return welcome, conn.SetDeadline(time.Time{})
}

// hearStatus takes in what the replicator says until the connection ends.
func (c *Client) hearStatus(conn net.Conn, reader *wire.Reader) error {
	for {
		if err := conn.SetReadDeadline(time.Now().Add(replicatorPatience)); err != nil {
			return err
		}
		message, err := reader.Next()
		if err != nil {
			return fmt.Errorf("hear the replicator: %w", err)
		}
		if m, ok := message.(*smr.ImageSources); ok {
			c.view.showSources(m.Sources)
			continue
		}
		if m, ok := message.(*smr.Reject); ok && m.Code == smr.RejectForeign {
			return fmt.Errorf("%w: %s", ErrOtherStream, m.Reason)
		}
		if m, ok := message.(*smr.Reject); ok && m.Code == smr.RejectLevel {
			return fmt.Errorf("%w: %s", ErrLevel, m.Reason)
		}
		status, ok := message.(*smr.Status)
		if !ok {
			return fmt.Errorf("%w: %T from the replicator", wire.ErrBadMessage, message)
		}
		if applied := c.Applied(); status.Start > applied && c.config.FetchImage == nil {
			return fmt.Errorf("%w: it begins at LSN %d, and this node has executed up to %d; start it from a checkpoint at %d or later",
				ErrTrimmed, status.Start, applied, status.Start)
		}
		changed, writable := c.view.show(*status)
		if writable {
			c.post(event{input: &session.Writable{Writable: status.Writable}})
		}
		if changed && !c.apply.here() {
			signal(c.view.statusChanged)
		}
	}
}

// tellProgress reports how far this node is: when it has moved, but not more often than progressEvery, when there is a new checkpoint, and every so
// often all the same, because silence counts.
func (c *Client) tellProgress(ctx context.Context, conn net.Conn) error {
	timer := time.NewTimer(progressEvery)
	defer timer.Stop()
	defer conn.Close() // a replicator that cannot be told is not heard either
	var buffer []byte
	var told *smr.Transfer
	moved, written := c.moved, time.Time{} // moved is nil while it is known that it has
	for {
		select {
		case <-timer.C:
		case <-c.saved:
		case <-moved:
			if early := progressEvery - time.Since(written); early > 0 {
				moved = nil
				timer.Reset(early)
				continue
			}
		case <-ctx.Done():
			return nil
		}
		applied := c.Applied()
		checkpoint := min(smr.LSN(c.checkpoint.Load()), applied)
		if c.applied.inDoubt.Load() {
			checkpoint = 0 // nothing may be trimmed, and nobody sent here for an image, because of a state of another stream
		}
		moved, written = c.moved, time.Now()
		timer.Reset(restEvery)
		buffer = wire.AppendMessage(buffer[:0], &smr.Progress{Applied: applied, Checkpoint: checkpoint})
		if base := c.base.Swap(nil); base != nil {
			buffer = wire.AppendMessage(buffer, &smr.LocalBase{Base: *base})
		}
		if transfer := c.transfer.Load(); transfer != told {
			told = transfer
			buffer = wire.AppendMessage(buffer, transfer)
		}
		if err := conn.SetWriteDeadline(time.Now().Add(replicatorPatience)); err != nil {
			return err
		}
		if _, err := conn.Write(buffer); err != nil {
			return fmt.Errorf("tell the replicator: %w", err)
		}
	}
}
