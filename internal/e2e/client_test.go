package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/internal/resp"
)

// conn is a raw Redis connection: one sees exactly what was sent and what came back, and nothing is retried.
type conn struct {
	net.Conn
	in []byte
}

func dial(addr string) (*conn, error) {
	c, err := (&net.Dialer{Timeout: time.Minute}).DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c}, nil
}

func mustDial(t *testing.T, addr string) *conn {
	t.Helper()
	c, err := dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// replyError is an error reply of the server: "-NOREPLICAS ...".
type replyError string

func (e replyError) Error() string { return string(e) }

// is reports whether err is an error reply that begins with one of these words.
func is(err error, words ...string) bool {
	var reply replyError
	if !errors.As(err, &reply) {
		return false
	}
	for _, word := range words {
		if strings.HasPrefix(string(reply), word+" ") {
			return true
		}
	}
	return false
}

// send writes one command without waiting.
func (c *conn) send(args ...string) error {
	b := append([]byte("*"), strconv.Itoa(len(args))...)
	for _, arg := range args {
		b = append(b, "\r\n$"+strconv.Itoa(len(arg))+"\r\n"+arg...)
	}
	_, err := c.Write(append(b, "\r\n"...))
	return err
}

// receive reads one reply.
func (c *conn) receive() (resp.Value, error) {
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
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
		more := make([]byte, 64<<10)
		n, err := c.Read(more)
		if err != nil {
			return resp.Value{}, err
		}
		c.in = append(c.in, more[:n]...)
	}
}

// do sends one command and reads its reply.
func (c *conn) do(args ...string) (resp.Value, error) {
	if err := c.send(args...); err != nil {
		return resp.Value{}, err
	}
	return c.receive()
}

// must does a command that may not fail.
func (c *conn) must(t *testing.T, args ...string) resp.Value {
	t.Helper()
	value, err := c.do(args...)
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
	return value
}

// once does one command on a connection of its own.
func once(addr string, args ...string) (resp.Value, error) {
	c, err := dial(addr)
	if err != nil {
		return resp.Value{}, err
	}
	defer c.Close()
	return c.do(args...)
}

// numbers reads a list of decimal numbers through a node.
func numbers(addr, key string) ([]int64, error) {
	value, err := once(addr, "LRANGE", key, "0", "-1")
	if err != nil {
		return nil, err
	}
	list := make([]int64, 0, len(value.Items))
	for _, item := range value.Items {
		n, err := strconv.ParseInt(item.Text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("list %s holds %q", key, item.Text)
		}
		list = append(list, n)
	}
	return list, nil
}
