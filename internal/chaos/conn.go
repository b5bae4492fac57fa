package chaos

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"lockstep/internal/admin"
	"lockstep/internal/resp"
)

// conn is a raw Redis connection: one sees exactly what was sent and what came back, and nothing is retried.
type conn struct {
	net.Conn
	patience time.Duration // for each reply
	in       []byte
}

// dialPatience bounds connecting to a KV node, handshakePatience where that takes a handshake of TLS.
const (
	dialPatience      = time.Second
	handshakePatience = 4 * time.Second
)

func dial(ctx context.Context, login admin.Login, addr string, patience time.Duration) (*conn, error) {
	limit := dialPatience
	if login.Keeper != nil {
		limit = handshakePatience
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c, err := login.DialRedis(ctx, addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, patience: patience}, nil
}

// replyError is an error reply of the server.
type replyError string

func (e replyError) Error() string { return string(e) }

// appendCommand appends one command in RESP.
func appendCommand(b []byte, args ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(args)), 10)
	for _, arg := range args {
		b = append(b, "\r\n$"...)
		b = strconv.AppendInt(b, int64(len(arg)), 10)
		b = append(b, "\r\n"...)
		b = append(b, arg...)
	}
	return append(b, "\r\n"...)
}

// receive reads one reply. An error inside of an array is no error of receive.
func (c *conn) receive() (resp.Value, error) {
	if err := c.SetReadDeadline(time.Now().Add(c.patience)); err != nil {
		return resp.Value{}, err
	}
	for {
		value, used, err := resp.Decode(c.in)
		if err != nil {
			return resp.Value{}, err
		}
		if used > 0 {
			c.in = append([]byte(nil), c.in[used:]...)
			if value.Kind == '-' {
				return value, replyError(value.Text)
			}
			return value, nil
		}
		more := make([]byte, 16<<10)
		n, err := c.Read(more)
		if err != nil {
			return resp.Value{}, err
		}
		c.in = append(c.in, more[:n]...)
	}
}

// do sends commands in one write and returns the reply to the last one. All replies are read; an error reply to an earlier
// command does not end it.
func (c *conn) do(commands ...[]string) (resp.Value, error) {
	var b []byte
	for _, command := range commands {
		b = appendCommand(b, command...)
	}
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return resp.Value{}, err
	}
	if _, err := c.Write(b); err != nil {
		return resp.Value{}, err
	}
	var value resp.Value
	var err error
	for range commands {
		value, err = c.receive()
		var reply replyError
		if err != nil && !errors.As(err, &reply) {
			return value, err
		}
	}
	return value, err
}

// once does one command on a connection of its own.
func once(ctx context.Context, login admin.Login, addr string, patience time.Duration, args ...string) (resp.Value, error) {
	c, err := dial(ctx, login, addr, patience)
	if err != nil {
		return resp.Value{}, err
	}
	defer c.Close()
	return c.do(args)
}

// judge tells what an error means for the operation that it ended. expected is false for replies that nobody should see.
func judge(err error) (outcome Outcome, expected bool) {
	var reply replyError
	if !errors.As(err, &reply) {
		return Unknown, true
	}
	word, _, _ := strings.Cut(string(reply), " ")
	switch word {
	case "NOREPLICAS", "MASTERDOWN", "EXECABORT":
		return Refused, true
	case "UNBLOCKED": // a command that waited was ended, before it was given anything
		return Refused, true
	case "UNCERTAIN":
		return Unknown, true
	}
	return Unknown, false
}

// integers turns the reply of LRANGE into what an Op carries.
func integers(value resp.Value) (string, error) {
	var b strings.Builder
	for _, item := range value.Items {
		if _, err := strconv.ParseInt(item.Text, 10, 64); err != nil {
			return "", fmt.Errorf("list holds %q", item.Text)
		}
		b.WriteString("," + item.Text)
	}
	return b.String(), nil
}
