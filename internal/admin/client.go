package admin

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

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

	addrs []string
	conns []*grpc.ClientConn // one for each address, which connects when it is first used

	mu   sync.Mutex
	last int // index of the address that answered last
}

// New returns a client of the configuration masters at these addresses. It connects when it is first used.
func New(addrs []string, login Login) (*Client, error) {
	if len(addrs) == 0 {
		return nil, errors.New("no address of a configuration master")
	}
	c := &Client{addrs: addrs, Login: login}
	for _, addr := range addrs {
		conn, err := grpc.NewClient("passthrough:///"+addr,
			grpc.WithTransportCredentials(login.Keeper.Credentials(trust.Wanted{Role: trust.Confmaster})),
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply)),
			grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.5, MaxDelay: time.Second},
				MinConnectTimeout: attemptTimeout,
			}))
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("configuration master %s: %w", addr, err)
		}
		c.conns = append(c.conns, conn)
	}
	return c, nil
}

// Close closes all connections.
func (c *Client) Close() {
	for _, conn := range c.conns {
		conn.Close()
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
	for at := 0; ctx.Err() == nil; at++ {
		stream, err := proto.NewConfmasterClient(c.conns[at%len(c.conns)]).
			Events(ctx, &proto.EventsRequest{Group: group, After: after})
		for err == nil {
			var event *proto.Event
			if event, err = stream.Recv(); err == nil && (event.GetId() == 0 || event.GetId() > after) {
				after = max(after, event.GetId())
				report(event)
			}
		}
		pause.For(ctx, 200*time.Millisecond)
	}
	return ctx.Err()
}

// each tries call at every address, beginning with the one that answered last.
func (c *Client) each(ctx context.Context, timeout time.Duration, call func(context.Context, proto.ConfmasterClient) error) error {
	c.mu.Lock()
	first := c.last
	c.mu.Unlock()
	var problems []string
	for i := range c.conns {
		at := (first + i) % len(c.conns)
		attempt, cancel := context.WithTimeout(ctx, timeout)
		err := call(attempt, proto.NewConfmasterClient(c.conns[at]))
		cancel()
		if err == nil || isAnswer(err) {
			c.mu.Lock()
			c.last = at
			c.mu.Unlock()
		}
		switch {
		case err == nil:
			return nil
		case status.Code(err) == codes.Aborted:
			return fmt.Errorf("%w: %s", ErrOvertaken, status.Convert(err).Message())
		case isAnswer(err):
			return errors.New(status.Convert(err).Message())
		case ctx.Err() != nil:
			return fmt.Errorf("configuration master %s: %w", c.addrs[at], ctx.Err())
		}
		text := status.Convert(err).Message()
		if c.Login.Keeper == nil && strings.Contains(text, "server preface") {
			text += ": if the cluster speaks TLS, give --tls-ca, --tls-cert and --tls-key, or a context that has them"
		}
		problems = append(problems, fmt.Sprintf("%s: %s", c.addrs[at], text))
	}
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
