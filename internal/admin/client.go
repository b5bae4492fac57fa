package admin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/locate"
	"lockstep/internal/pause"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// attemptTimeout bounds one attempt of a short call at one address, so that a stopped configuration master does not
// use up the time of the others.
const attemptTimeout = 2 * time.Second

// maxReply bounds one answer of a configuration master, in bytes.
const maxReply = 16 << 20

// Client calls the configuration masters of one cluster. It is safe for concurrent use.
type Client struct {
	// Login is how this client shows who it is, for those who call nodes as well.
	Login Login

	// Resolver looks up SRV records; nil is that of the system. It is set before the first call.
	Resolver *net.Resolver

	names []string

	mu    sync.Mutex
	known []master // where the names led when they were last looked up, which connect when they are first used
	stale bool     // nobody there has answered: look again
	last  int      // index of the one that answered last
}

// master is a configuration master at one address.
type master struct {
	addr string
	conn *grpc.ClientConn
}

// New returns a client of the configuration masters that are named as in package locate: HOST:PORT, or srv:// for all that an SRV record
// lists. It looks names up and connects when it is first used, looks an SRV record up again when nobody there answers any more, and
// the name of a host at each connection.
func New(names []string, login Login) (*Client, error) {
	if len(names) == 0 {
		return nil, errors.New("no address of a configuration master")
	}
	for _, name := range names {
		if err := locate.Check(name); err != nil {
			return nil, fmt.Errorf("configuration master %w", err)
		}
	}
	return &Client{names: names, Login: login}, nil
}

// masters returns where the configuration masters are, and which of them to ask first.
func (c *Client) masters(ctx context.Context) ([]master, int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known != nil && (!c.stale || !slices.ContainsFunc(c.names, locate.Several)) {
		return c.known, c.last, nil
	}
	addrs, err := locate.Addresses(ctx, c.Resolver, c.names)
	if err != nil {
		if c.known != nil { // DNS is away: whoever was there may come back
			return c.known, c.last, nil
		}
		return nil, 0, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	var found []master
	for _, addr := range addrs {
		if i := slices.IndexFunc(c.known, func(m master) bool { return m.addr == addr }); i >= 0 {
			found = append(found, c.known[i])
			continue
		}
		conn, err := c.open(addr)
		if err != nil {
			return nil, 0, fmt.Errorf("configuration master %s: %w", addr, err)
		}
		found = append(found, master{addr, conn})
	}
	for _, old := range c.known {
		if !slices.Contains(found, old) {
			old.conn.Close()
		}
	}
	c.known, c.stale, c.last = found, false, 0
	return c.known, c.last, nil
}

func (c *Client) open(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, // names of hosts are looked up at each dial
		grpc.WithTransportCredentials(c.Login.Keeper.Credentials(trust.Wanted{Role: trust.Confmaster})),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
			MinConnectTimeout: attemptTimeout,
		}))
}

// answered notes who has answered; -1: nobody.
func (c *Client) answered(at int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stale = at < 0; !c.stale {
		c.last = at
	}
}

// Close closes all connections.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.known {
		m.conn.Close()
	}
}

// Status asks for the state of everything.
func (c *Client) Status(ctx context.Context) (*proto.ClusterStatus, error) {
	var reply *proto.ClusterStatus
	err := c.each(ctx, attemptTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.Status(ctx, &proto.StatusRequest{})
		return err
	})
	return reply, err
}

// CreateGroup registers a group; repeating it with the same description is harmless.
func (c *Client) CreateGroup(ctx context.Context, request *proto.CreateGroupRequest) (*proto.ChangeReply, error) {
	var reply *proto.ChangeReply
	err := c.each(ctx, 10*time.Second, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.CreateGroup(ctx, request)
		return err
	})
	return reply, err
}

// Switchover hands mastership of group over to node, or to any suitable replica if node is empty.
func (c *Client) Switchover(ctx context.Context, group, node string) (*proto.ChangeReply, error) {
	var reply *proto.ChangeReply
	err := c.each(ctx, time.Minute, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.Switchover(ctx, &proto.SwitchoverRequest{Group: group, To: node})
		return err
	})
	return reply, err
}

// WorkLog lists the last decisions about group, newest last.
func (c *Client) WorkLog(ctx context.Context, group string, limit int) ([]*proto.WorkEntry, error) {
	var reply *proto.WorkLogReply
	err := c.each(ctx, attemptTimeout, func(ctx context.Context, service proto.ConfmasterClient) (err error) {
		reply, err = service.WorkLog(ctx, &proto.WorkLogRequest{Group: group, Limit: uint32(limit)})
		return err
	})
	return reply.GetEntries(), err
}

// Events calls report for every event of group (of all groups if it is empty) after the one numbered after, until ctx is
// done; when one configuration master goes away it carries on with the next. Events without a number are what the configuration
// master that is followed has observed: they come as they happen, and are not kept. It returns ctx's error.
func (c *Client) Events(ctx context.Context, group string, after uint64, report func(*proto.Event)) error {
	silent := 0 // so many were asked since somebody told something
	for at := 0; ctx.Err() == nil; at++ {
		masters, _, err := c.masters(ctx)
		var stream grpc.ServerStreamingClient[proto.Event]
		if err == nil {
			stream, err = proto.NewConfmasterClient(masters[at%len(masters)].conn).Events(ctx, &proto.EventsRequest{Group: group, After: after})
		}
		for err == nil {
			var event *proto.Event
			if event, err = stream.Recv(); err == nil {
				silent = 0
				if event.GetId() == 0 || event.GetId() > after {
					after = max(after, event.GetId())
					report(event)
				}
			}
		}
		if silent++; len(masters) > 0 && silent%len(masters) == 0 {
			c.answered(-1)
		}
		pause.For(ctx, 200*time.Millisecond)
	}
	return ctx.Err()
}

// each tries call at every address, beginning with the one that answered last. Once one of them could not tell what becomes of the request, a refusal by the next
// may be for what the first has done, and is no answer.
func (c *Client) each(ctx context.Context, timeout time.Duration, call func(context.Context, proto.ConfmasterClient) error) error {
	masters, first, err := c.masters(ctx)
	if err != nil {
		return err
	}
	var problems []string
	unsure := false
	for i := range masters {
		at := (first + i) % len(masters)
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err := call(attempt, proto.NewConfmasterClient(masters[at].conn))
		cancel()
		if err == nil || isAnswer(err) {
			c.answered(at)
		}
		switch {
		case err == nil:
			return nil
		case unsure && isAnswer(err):
			problems = append(problems, fmt.Sprintf("%s: %s", masters[at].addr, status.Convert(err).Message()))
			return fmt.Errorf("%w for sure: %s", ErrNoAnswer, strings.Join(problems, "; then "))
		case status.Code(err) == codes.Aborted:
			return fmt.Errorf("%w: %s", ErrOvertaken, status.Convert(err).Message())
		case isAnswer(err):
			return errors.New(status.Convert(err).Message())
		case ctx.Err() != nil:
			return fmt.Errorf("configuration master %s: %w", masters[at].addr, ctx.Err())
		}
		unsure = unsure || status.Code(err) == codes.Unknown
		text := status.Convert(err).Message()
		if c.Login.Keeper == nil && strings.Contains(text, "server preface") {
			text += ": if the cluster speaks TLS, give --tls-ca, --tls-cert and --tls-key, or a context that has them"
		}
		problems = append(problems, fmt.Sprintf("%s: %s", masters[at].addr, text))
	}
	c.answered(-1)
	return fmt.Errorf("%w: %s", ErrNoAnswer, strings.Join(problems, "; "))
}

// ErrNoAnswer: none of the configuration masters could be asked, or none of them has a leader.
var ErrNoAnswer = errors.New("no configuration master answers")

// ErrOvertaken: somebody else changed it since the caller looked. Nothing was changed.
var ErrOvertaken = errors.New("overtaken")

// isAnswer reports whether err is a decision of a configuration master rather than a failure to reach one.
func isAnswer(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Unknown, codes.Unimplemented:
		return false
	}
	return true
}
