package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"
)

// handshakePatience bounds a handshake whose caller has no bound of its own.
const handshakePatience = 5 * time.Second

// Auth says whether Redis clients show certificates.
type Auth uint8

const (
	AuthNo       Auth = iota // they are not asked
	AuthOptional             // a certificate that is shown must be valid
	AuthRequired             // none is let in without
)

// ParseAuth reads no, optional or required.
func ParseAuth(text string) (Auth, error) {
	for i, name := range []string{"no", "optional", "required"} {
		if text == name {
			return Auth(i), nil
		}
	}
	return 0, fmt.Errorf("%q: use no, optional or required", text)
}

// forClients is the configuration of a port for Redis clients.
func (m *material) forClients(auth Auth) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{m.pair}, ClientCAs: m.pool,
		ClientAuth: [...]tls.ClientAuthType{tls.NoClientCert, tls.VerifyClientCertIfGiven, tls.RequireAndVerifyClientCert}[auth],
	}
}

// ForClients returns the configuration of a port for Redis clients, always with the newest certificate.
func (k *Keeper) ForClients(auth Auth) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return k.now.Load().clients[auth], nil },
	}
}

// server is the configuration of an inner port: who comes must show a certificate of the CA.
func (k *Keeper) server() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			m := k.now.Load()
			return &tls.Config{
				MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.pair}, ClientCAs: m.pool,
				ClientAuth: tls.RequireAndVerifyClientCert, SessionTicketsDisabled: true, // each connection is checked anew
			}, nil
		},
	}
}

// client is the configuration of a connection to w. Addresses may change, so not the host's name is checked but who it is.
func (k *Keeper) client(w Wanted) *tls.Config {
	m := k.now.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{m.pair},
		// The standard check compares a host's name, which says nothing here. VerifyConnection checks the chain and the
		// identity, for each connection: nothing is skipped.
		InsecureSkipVerify: true, // #nosec G402
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return &RefusedError{"it shows no certificate"}
			}
			options := x509.VerifyOptions{Roots: m.pool, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
			for _, cert := range state.PeerCertificates[1:] {
				options.Intermediates.AddCert(cert)
			}
			if _, err := state.PeerCertificates[0].Verify(options); err != nil {
				return err
			}
			peer, err := k.PeerOf(state)
			if err != nil {
				return err
			}
			return peer.check(w)
		},
	}
}

// Dial opens a connection to w; a plain one if k is nil. The handshake is done when it returns.
func (k *Keeper) Dial(ctx context.Context, dialer *net.Dialer, address string, w Wanted) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil || k == nil {
		return conn, err
	}
	secured, err := secure(ctx, conn, k.client(w))
	if err != nil {
		return nil, fmt.Errorf("%s at %s: %w", w, address, err)
	}
	return secured, nil
}

// secure shakes hands as the client. It closes a connection with which that fails, and says why.
func secure(ctx context.Context, conn net.Conn, config *tls.Config) (net.Conn, error) {
	secured := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, handshakePatience)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, Explain(err)
	}
	return &Conn{secured}, nil
}

// Accepted returns a connection that was accepted at an inner port; conn itself if k is nil. The handshake happens with
// the first read, within the deadlines that are set.
func (k *Keeper) Accepted(conn net.Conn) net.Conn {
	if k == nil {
		return conn
	}
	return &Conn{tls.Server(conn, k.server())}
}

// Conn is a connection with TLS whose errors say what to do.
type Conn struct{ *tls.Conn }

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	return explainedRead(c.Conn, b)
}

func explainedRead(conn net.Conn, b []byte) (int, error) {
	n, err := conn.Read(b)
	if err != nil {
		err = Explain(err)
	}
	return n, err
}

// Close implements net.Conn. It does not wait until the peer takes a farewell: frames tell whether they are whole.
func (c *Conn) Close() error { return c.NetConn().Close() }

// Admit reports why the peer of an accepted connection, from which something was read, is not w. A plain connection is
// anybody's if k is nil.
func (k *Keeper) Admit(conn net.Conn, w Wanted) error {
	if k == nil {
		return nil
	}
	secured, ok := conn.(*Conn)
	if !ok {
		return &RefusedError{"the connection is not secured"}
	}
	peer, err := k.PeerOf(secured.ConnectionState())
	if err == nil {
		err = peer.check(w)
	}
	if err != nil {
		k.complaints.note(conn.RemoteAddr(), err)
	}
	return err
}

// handshakeError is an error of TLS with what to do about it.
type handshakeError struct {
	err  error
	text string
}

func (e *handshakeError) Error() string { return e.text + " (" + e.err.Error() + ")" }
func (e *handshakeError) Unwrap() error { return e.err }

// IsTrust reports whether an error is about who the peer is, rather than about the network.
func IsTrust(err error) bool {
	var handshake *handshakeError
	var refused *RefusedError
	return errors.As(err, &handshake) || errors.As(err, &refused)
}

// Mentioned reports whether an error that came as text, as gRPC gives it, is about certificates or TLS.
func Mentioned(text string) bool {
	return strings.Contains(text, "certificate") || strings.Contains(text, "TLS")
}

// Explain adds to an error of TLS who should do what. Other errors are returned as they are.
func Explain(err error) error {
	text := ""
	var header tls.RecordHeaderError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var verification *tls.CertificateVerificationError
	var refused *RefusedError
	var operation *net.OpError
	var handshake *handshakeError
	switch {
	case errors.As(err, &handshake):
	case errors.As(err, &header):
		text = "the peer does not speak TLS: give both sides --tls-cert, --tls-key and --tls-ca, or neither"
	case errors.As(err, &refused):
		text = "the peer is refused"
	case errors.As(err, &unknown):
		text = "the peer's certificate is not signed by a CA in --tls-ca: it is of another cluster, or the file lacks the new CA"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		text = "the peer's certificate has expired, or one of the clocks is wrong: renew it there, `smrctl cert show` tells until when it is good"
	case errors.As(err, &invalid), errors.As(err, &verification):
		text = "the peer's certificate is not good for this"
	case errors.As(err, &operation) && operation.Op == "remote error":
		text = "the peer refuses our certificate: its log says why; look whether both are of one CA and one cluster, and ours has not expired"
	}
	if text == "" {
		return err
	}
	return &handshakeError{err, text}
}

// complaints tells of refused peers, not more than a line a second: anybody can knock.
type complaints struct {
	logger *slog.Logger

	mu     sync.Mutex
	last   time.Time
	passed int // since then
}

func (c *complaints) note(remote net.Addr, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.last) < time.Second {
		c.passed++
		return
	}
	c.logger.Warn("peer refused", "remote", remote.String(), "error", err.Error(), "more", c.passed)
	c.last, c.passed = time.Now(), 0
}

// Refused tells the log of a peer that was refused.
func (k *Keeper) Refused(remote net.Addr, err error) {
	if k != nil {
		k.complaints.note(remote, err)
	}
}

// ForHosts is the configuration of a client that checks names of hosts and shows the own certificate; nil without TLS.
func (k *Keeper) ForHosts() *tls.Config {
	if k == nil {
		return nil
	}
	m := k.now.Load()
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: m.pool, Certificates: []tls.Certificate{m.pair}}
}

// DialRedis opens a connection to a port for Redis clients: with TLS and the own certificate, checked as every client does it, by
// the name of the host. If k is nil it is plain.
func (k *Keeper) DialRedis(ctx context.Context, dialer *net.Dialer, address string) (net.Conn, error) {
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil || k == nil {
		return conn, err
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	config := k.ForHosts()
	config.ServerName = host
	secured, err := secure(ctx, conn, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	return secured, nil
}

// WithoutTLS reports whether a handshake failed because the other side does not speak TLS.
func WithoutTLS(err error) bool {
	var header tls.RecordHeaderError
	return errors.As(err, &header)
}
