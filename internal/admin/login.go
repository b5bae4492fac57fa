package admin

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"strings"

	"github.com/tidwall/resp"

	"lockstep/internal/trust"
)

// Login is how a tool shows who it is. The zero value shows nothing.
type Login struct {
	Keeper *trust.Keeper // certificate; nil: nothing has TLS
	// User and Password are for Redis ports; an empty User is the default one. Without a password nobody logs in.
	User, Password string
}

// DialRedis opens a connection to a Redis port and logs in; ctx bounds both, and must have a deadline. With a certificate a port
// without TLS is accepted, too, but no password is sent there.
func (l Login) DialRedis(ctx context.Context, address string) (net.Conn, error) {
	dialer := &net.Dialer{}
	conn, err := l.Keeper.DialRedis(ctx, dialer, address)
	if trust.WithoutTLS(err) && l.Password == "" {
		conn, err = dialer.DialContext(ctx, "tcp", address)
	}
	if err != nil || l.Password == "" {
		return conn, err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := l.authenticate(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("log in at %s: %w", address, err)
	}
	return conn, nil
}

func (l Login) authenticate(conn net.Conn) error {
	words := []any{"AUTH", l.Password}
	if l.User != "" {
		words = []any{"AUTH", l.User, l.Password}
	}
	request, err := resp.MultiBulkValue(words[0].(string), words[1:]...).MarshalRESP()
	if err != nil {
		return err
	}
	if _, err := conn.Write(request); err != nil {
		return err
	}
	// Nothing comes behind the reply before something is asked: the buffer holds nothing when it is given up.
	reply, _, err := resp.NewReader(bufio.NewReaderSize(conn, 512)).ReadValue()
	if err != nil {
		return err
	}
	if reply.Type() == resp.Error {
		return fmt.Errorf("%s: give --user and --password-file", strings.TrimSpace(reply.String()))
	}
	return nil
}
