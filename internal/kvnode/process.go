package kvnode

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"lockstep/internal/level"
	"lockstep/internal/trust"
	"lockstep/smr"
	"lockstep/smr/client"
)

// Run serves clients until ctx ends, which is no error, or the log cannot be executed. It returns when all
// goroutines have ended.
func Run(ctx context.Context, config Config) error {
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	if err := config.Validate(); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if err := awaitDirectory(ctx, config.ReplicatorDir); err != nil {
		return err
	}
	keeper, machine, err := openImages(config)
	if err != nil {
		return err
	}
	session, runID := newSession()
	ports, err := openPorts(config)
	if err != nil {
		if keeper != nil {
			err = errors.Join(err, keeper.engine.Close())
		}
		return fmt.Errorf("listen for clients: %w", err)
	}
	defer ports.close()
	node := NewNode(config, session, runID, nil)
	images := Images(nil)
	if keeper != nil {
		images = keeper
		node.keep(keeper, machine)
		defer keeper.close()
	}
	management, err := node.openManage(images)
	if err != nil {
		return err
	}
	if management != nil {
		defer management.listener.Close()
	}
	address := announced(config, ports)
	link, err := connect(config, session, address, management.address(address), node)
	if err != nil {
		return err
	}
	node.log = link
	if keeper != nil {
		keeper.store, keeper.tell = link.SetCheckpoint, link.SetTransfer
	}
	if management != nil {
		management.proved = link.Proved
	}
	node.blocked.announceNode()
	config.Observer.Show(newSubject(node))
	config.Observer.Serving()
	node.logger.Info("started", "listen", ports.String(), "session", uint64(session), "pid", os.Getpid())

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	linkCtx, unlink := context.WithCancel(context.Background()) // outlives ctx: commands in flight still need the log
	defer unlink()
	var tasks sync.WaitGroup
	var linkErr error
	tasks.Go(func() {
		linkErr = link.Run(linkCtx)
		cancel(linkErr)
	})
	var manageErr error
	if management != nil {
		tasks.Go(func() {
			if manageErr = management.serve(ctx); manageErr != nil {
				cancel(manageErr)
			}
		})
	}
	if keeper != nil {
		tasks.Go(func() { keeper.run(ctx) })
		tasks.Go(func() { keeper.tier.run(ctx) })
		tasks.Go(func() { keeper.archiver.run(ctx) })
	}
	if ports.certificate != config.Keeper {
		tasks.Go(func() { ports.certificate.Run(ctx) })
	}
	err = node.Serve(ctx, ports.listeners...)
	cancel(nil)
	unlink()
	tasks.Wait()
	node.Stop()
	if errors.Is(linkErr, client.ErrOtherStream) {
		return fmt.Errorf("group %s: %w. What this node holds is of another history than its group: keep its directories as evidence if a recovery was"+
			" forced, and let it begin anew (smrctl node wipe %s; elsewhere: move away the directories of both its processes)", config.Group, linkErr, config.Node)
	}
	if errors.Is(linkErr, client.ErrLevel) {
		return fmt.Errorf("%w: %w", level.ErrTooLow, linkErr)
	}
	if linkErr != nil {
		return fmt.Errorf("execute the log of group %s: %w", config.Group, linkErr)
	}
	return errors.Join(err, manageErr)
}

const (
	// masterPatience bounds a dial to a master; the handshake has its own bound.
	masterPatience = time.Second
	// directoryPatience is how long the replicator, which may have been started at the same time, has to make its
	// directory.
	directoryPatience = 10 * time.Second
	directoryPoll     = 50 * time.Millisecond
)

// awaitDirectory waits until the replicator's directory is there. A directory that never comes is a wrong flag.
func awaitDirectory(ctx context.Context, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, directoryPatience)
	defer cancel()
	poll := time.NewTicker(directoryPoll)
	defer poll.Stop()
	for {
		info, err := os.Stat(dir)
		switch {
		case err == nil && info.IsDir():
			return nil
		case err == nil:
			return fmt.Errorf("replicator directory %s is no directory", dir)
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("replicator directory: %w: start the replicator first, or name its --dir", err)
		}
	}
}

// newSession draws the identity of this process life.
func newSession() (smr.SessionID, string) {
	var b [28]byte
	rand.Read(b[:])
	return smr.SessionID(max(binary.LittleEndian.Uint64(b[20:]), 1)), hex.EncodeToString(b[:20])
}

// ports are where clients connect, the one without TLS first.
type ports struct {
	listeners   []net.Listener
	certificate *trust.Keeper // for clients; nil: no port has TLS
}

func openPorts(config Config) (p ports, err error) {
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if config.Listen != "" {
		plain, err := net.Listen("tcp", config.Listen)
		if err != nil {
			return p, err
		}
		p.listeners = append(p.listeners, plain)
	}
	if config.TLS.Listen == "" {
		return p, nil
	}
	if p.certificate = config.Keeper; config.TLS.Files.Given() {
		if p.certificate, err = trust.Open(config.TLS.Files, config.Logger); err != nil {
			return p, err
		}
	}
	if p.certificate == nil {
		return p, errors.New("TLS needs a certificate: give --tls-listen-cert, --tls-listen-key and --tls-listen-ca, or --tls-cert, --tls-key and --tls-ca")
	}
	secured, err := net.Listen("tcp", config.TLS.Listen)
	if err != nil {
		return p, err
	}
	p.listeners = append(p.listeners, p.certificate.Listen(secured, config.TLS.Auth))
	return p, nil
}

func (p ports) close() {
	for _, listener := range p.listeners {
		listener.Close() // an error here changes nothing
	}
}

func (p ports) String() string {
	var list []string
	for _, listener := range p.listeners {
		list = append(list, listener.Addr().String())
	}
	return strings.Join(list, " ")
}

// announced returns where others reach the first port.
func announced(config Config, p ports) string {
	if config.Announce != "" {
		return config.Announce
	}
	address := config.Listen
	if address == "" {
		address = config.TLS.Listen
	}
	name, _, _ := splitHostPort(address)
	return net.JoinHostPort(name, strconv.Itoa(p.listeners[0].Addr().(*net.TCPAddr).Port))
}

// dialer opens connections to the replicators of masters; nil without TLS.
func dialer(keeper *trust.Keeper) func(context.Context, smr.NodeID, string) (net.Conn, error) {
	if keeper == nil {
		return nil
	}
	return func(ctx context.Context, master smr.NodeID, address string) (net.Conn, error) {
		return keeper.Dial(ctx, &net.Dialer{Timeout: masterPatience}, address, trust.Wanted{Role: trust.Replicator, Name: string(master)})
	}
}

// connect returns the node's link to its group.
func connect(config Config, session smr.SessionID, address, admin string, node *Node) (link, error) {
	c, err := client.New(node.fromImages(client.Config{
		Cluster: config.Cluster, Group: config.Group, Node: config.Node, Session: session,
		SocketPath: config.socketPath(), KVAddr: address, AdminAddr: admin, Level: level.Highest(),
		Timeout: config.WriteTimeout, RefuseAfter: config.RefuseAfter, Logger: config.Logger, Dial: dialer(config.Keeper),
	}), node)
	return link{c}, err
}
