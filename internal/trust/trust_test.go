package trust

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// authority is a CA in a directory of its own.
type authority struct {
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T, cluster string) authority {
	t.Helper()
	a := authority{t, filepath.Join(t.TempDir(), "ca")}
	if err := MakeCA(a.dir, cluster, 24*time.Hour); err != nil {
		t.Fatal(err)
	}
	return a
}

// issue makes a certificate.
func (a authority) issue(file string, r Request) Files {
	a.t.Helper()
	if r.Life == 0 {
		r.Life = time.Hour
	}
	files, err := Issue(a.dir, filepath.Join(a.dir, "certs"), file, r)
	if err != nil {
		a.t.Fatal(err)
	}
	return files
}

// journal is a log that may be read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

func open(t *testing.T, files Files) (*Keeper, *journal) {
	t.Helper()
	j := &journal{}
	k, err := Open(files, slog.New(slog.NewTextHandler(j, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return k, j
}

// meet has a client dial a server that reads a line, checks who came, and answers one. It returns what went wrong on each side.
func meet(t *testing.T, server *Keeper, expects Wanted, dial func(address string) (net.Conn, error)) (atServer, atClient error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	done := make(chan error, 1)
	go func() {
		raw, err := listener.Accept()
		if err != nil {
			done <- err
			return
		}
		conn := server.Accepted(raw)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err = io.ReadFull(conn, make([]byte, 16)); err == nil {
			if err = server.Admit(conn, expects); err == nil {
				_, err = conn.Write([]byte("hello, who calls"))
				io.Copy(io.Discard, conn) // until the client has heard it
			}
		}
		done <- err
	}()
	conn, atClient := dial(listener.Addr().String())
	if atClient == nil {
		conn.SetDeadline(time.Now().Add(time.Minute))
		_, atClient = conn.Write([]byte("hello from there"))
		if _, err := io.ReadFull(conn, make([]byte, 1)); atClient == nil || IsTrust(err) {
			atClient = err
		}
		conn.Close()
	}
	return <-done, atClient
}

// What could go wrong: somebody with a certificate of another CA, another cluster, another node or another role, an expired one, or
// none, is let in; or the right one is not; or nobody learns why. Both sides are asked what they say.
func TestOnlyTheRightCertificateIsAccepted(t *testing.T) {
	home, foreign := newAuthority(t, "prod"), newAuthority(t, "prod")
	both := []Role{Replicator, KVNode}
	server, _ := open(t, home.issue("n1", Request{Roles: both, Name: "n1"}))
	expects := Wanted{KVNode, "n2"}
	good := home.issue("n2", Request{Roles: both, Name: "n2"})
	for name, test := range map[string]struct {
		files            Files
		wants            Wanted
		server, client   string // "" is no error
		clientMayHearEOF bool
	}{
		"the right one": {files: good, wants: Wanted{Replicator, "n1"}},
		"any of a role": {files: good, wants: Wanted{Role: Replicator}},
		"other CA":      {files: foreign.issue("n2", Request{Roles: both, Name: "n2"}), wants: Wanted{Role: Replicator}, server: "remote error", client: "not signed by a CA in --tls-ca"},
		"trusts us, is of another CA": {
			files: Files{CA: good.CA, Cert: foreign.issue("n3", Request{Roles: both, Name: "n2"}).Cert, Key: filepath.Join(foreign.dir, "certs", "n3.key")},
			wants: Wanted{Role: Replicator}, server: "not signed by a CA in --tls-ca", client: "the peer refuses our certificate",
		},
		"expired":       {files: home.issue("old", Request{Roles: both, Name: "n2", Life: -time.Minute}), wants: Wanted{Role: Replicator}, server: "has expired", client: "the peer refuses our certificate"},
		"other cluster": {files: home.issue("x", Request{Cluster: "test", Roles: both, Name: "n2"}), wants: Wanted{Role: Replicator}, server: "remote error", client: `is of cluster "prod"`},
		"other node":    {files: home.issue("n4", Request{Roles: both, Name: "n4"}), wants: Wanted{Role: Replicator}, server: "that of replicator/n4, kvnode/n4, and it should be kvnode/n2", clientMayHearEOF: true},
		"other role":    {files: home.issue("r2", Request{Roles: both[:1], Name: "n2"}), wants: Wanted{Role: Replicator}, server: "that of replicator/n2, and it should be kvnode/n2", clientMayHearEOF: true},
		"an operator":   {files: home.issue("bob", Request{Roles: []Role{Admin}, Name: "bob"}), wants: Wanted{Role: Replicator}, server: "it should be kvnode/n2", clientMayHearEOF: true},
		"no identity":   {files: home.issue("app", Request{Name: "app"}), wants: Wanted{Role: Replicator}, server: "remote error", client: `is of cluster "prod"`},
		"wants another": {files: good, wants: Wanted{Replicator, "n7"}, server: "remote error", client: "that of replicator/n1, kvnode/n1, and it should be replicator/n7"},
	} {
		client, _ := open(t, test.files)
		atServer, atClient := meet(t, server, expects, func(address string) (net.Conn, error) {
			return client.Dial(context.Background(), &net.Dialer{}, address, test.wants)
		})
		for _, side := range []struct {
			what string
			err  error
			want string
		}{{"server", atServer, test.server}, {"client", atClient, test.client}} {
			switch {
			case side.want == "" && side.err == nil, side.want != "" && side.err != nil && strings.Contains(side.err.Error(), side.want):
			case side.what == "client" && test.clientMayHearEOF && side.err != nil:
			default:
				t.Errorf("%s: the %s says %v, want %q", name, side.what, side.err, side.want)
			}
		}
	}
}

// What could go wrong: a side without TLS is let in, or nobody says that this is what is missing.
func TestPlainConnectionsAreRefused(t *testing.T) {
	home := newAuthority(t, "prod")
	keeper, _ := open(t, home.issue("n1", Request{Roles: []Role{Replicator}, Name: "n1"}))
	atServer, atClient := meet(t, keeper, Wanted{Role: Replicator}, func(address string) (net.Conn, error) { return net.Dial("tcp", address) })
	if atServer == nil || !strings.Contains(atServer.Error(), "does not speak TLS") {
		t.Errorf("a client without TLS: %v, %v", atServer, atClient)
	}
	atServer, atClient = meet(t, nil, Wanted{Role: Replicator}, func(address string) (net.Conn, error) {
		return keeper.Dial(context.Background(), &net.Dialer{}, address, Wanted{Role: Replicator})
	})
	if atClient == nil || !strings.Contains(atClient.Error(), "does not speak TLS") {
		t.Errorf("a server without TLS: %v, %v", atServer, atClient)
	}
	if err := keeper.Admit(&net.TCPConn{}, Wanted{Role: Replicator}); err == nil {
		t.Error("a connection that is not secured is admitted")
	}
}

// What could go wrong: an open port goes on with a certificate that has been replaced, takes files that do not fit, or those of
// another node.
func TestNewCertificateIsTakenWithoutRestart(t *testing.T) {
	home := newAuthority(t, "prod")
	request := Request{Roles: []Role{Replicator}, Name: "n1"}
	files := home.issue("n1", request)
	server, _ := open(t, files)
	client, _ := open(t, home.issue("n2", Request{Roles: []Role{Replicator}, Name: "n2"}))
	serial := func() string {
		t.Helper()
		seen := ""
		atServer, atClient := meet(t, server, Wanted{Replicator, "n2"}, func(address string) (net.Conn, error) {
			conn, err := client.Dial(context.Background(), &net.Dialer{}, address, Wanted{Replicator, "n1"})
			if err == nil {
				seen = conn.(*Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
			}
			return conn, err
		})
		if err := errors.Join(atServer, atClient); err != nil {
			t.Fatal(err)
		}
		return seen
	}
	first := serial()
	if changed, err := server.Reload(); changed || err != nil {
		t.Errorf("nothing has changed: %v, %v", changed, err)
	}
	home.issue("n1", request)
	if changed, err := server.Reload(); !changed || err != nil {
		t.Fatalf("%v, %v", changed, err)
	}
	second := serial()
	if first == second {
		t.Error("the old certificate is shown")
	}
	whole, err := os.ReadFile(files.Key)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(){
		"half a key":      func() { os.WriteFile(files.Key, whole[:40], 0o600) },
		"a key of others": func() { home.issue("n1", request); os.WriteFile(files.Key, whole, 0o600) },
		"of another node": func() { home.issue("n1", Request{Roles: []Role{Replicator}, Name: "n9"}) },
		"of another role": func() { home.issue("n1", Request{Roles: []Role{KVNode}, Name: "n1"}) },
		"no file":         func() { os.Remove(files.Key) },
	} {
		spoil()
		if changed, err := server.Reload(); changed || err == nil {
			t.Errorf("%s: %v, %v", name, changed, err)
		}
		if serial() != second {
			t.Errorf("%s: the certificate is not the one that was good", name)
		}
	}
}

// What could go wrong: SIGHUP ends the process, or changes nothing.
func TestSIGHUPRenews(t *testing.T) {
	defer goleak.VerifyNone(t)
	safety := make(chan os.Signal, 1)
	signal.Notify(safety, syscall.SIGHUP) // should Run not take it, the test must not die of it; nor behind the test, of the last one sent
	home := newAuthority(t, "prod")
	request := Request{Roles: []Role{Replicator}, Name: "n1"}
	files := home.issue("n1", request)
	keeper, log := open(t, files)
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(func() { keeper.Run(ctx) })
	before := keeper.now.Load()
	home.issue("n1", request)
	for deadline := time.Now().Add(time.Minute); keeper.now.Load() == before && time.Now().Before(deadline); runtime.Gosched() {
		syscall.Kill(os.Getpid(), syscall.SIGHUP)
	}
	cancel()
	tasks.Wait()
	if keeper.now.Load() == before {
		t.Error("not renewed")
	}
	if !strings.Contains(log.String(), "ends soon") { // of an hour
		t.Errorf("nobody is warned:\n%s", log.String())
	}
}

func TestFilesThatCannotBeUsed(t *testing.T) {
	home := newAuthority(t, "prod")
	good := home.issue("n1", Request{Roles: []Role{Replicator}, Name: "n1"})
	other := home.issue("n2", Request{Roles: []Role{Replicator}, Name: "n2"})
	loose := filepath.Join(t.TempDir(), "loose.key")
	key, err := os.ReadFile(good.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(loose, key, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(loose, 0o604); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		files Files
		want  string
	}{
		"open to all":      {Files{good.CA, good.Cert, loose}, "chmod 600"},
		"key of another":   {Files{good.CA, good.Cert, other.Key}, "does not match"},
		"no such file":     {Files{good.CA, good.Cert, "/nowhere"}, "/nowhere"},
		"no certificate":   {Files{good.Key, good.Cert, good.Key}, "no certificate"},
		"endless":          {Files{"/dev/zero", good.Cert, good.Key}, "more than"},
		"a key without CA": {Files{"", good.Cert, good.Key}, "no such file"},
	} {
		if _, err := Open(test.files, slog.Default()); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
	keeper, _ := open(t, good)
	if err := keeper.Is(Identity{"prod", Replicator, "n1"}); err != nil {
		t.Error(err)
	}
	for _, id := range []Identity{{"prod", Replicator, "n2"}, {"prod", KVNode, "n1"}, {"test", Replicator, "n1"}} {
		if err := keeper.Is(id); err == nil {
			t.Errorf("%s is taken for %s", good.Cert, id)
		}
	}
	if err := (Files{CA: "x"}).Check("--tls-"); err == nil || !strings.Contains(err.Error(), "--tls-cert, --tls-key is missing") {
		t.Error(err)
	}
	for _, id := range []Identity{{"", Admin, "a"}, {"c", "boss", "a"}, {"c", Admin, "a/b"}, {"c", Admin, "..x"}, {"c d", Admin, "a"}, {"c", Admin, strings.Repeat("a", 200)}} {
		if id.Check() == nil {
			t.Errorf("%q can stand in a certificate", id)
		}
	}
}

// What could go wrong: one who connects and says nothing keeps others out, or stays for ever; a close waits for it.
func TestSilentClientsHoldUpNobody(t *testing.T) {
	defer goleak.VerifyNone(t)
	home := newAuthority(t, "prod")
	keeper, log := open(t, home.issue("n1", Request{Roles: []Role{KVNode}, Name: "n1", Hosts: []string{"127.0.0.1"}}))
	app, _ := open(t, home.issue("app", Request{Name: "app"}))
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := keeper.Listen(raw, AuthRequired)
	address := raw.Addr().String()
	for range 20 {
		silent, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
	}
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			conn.Write([]byte("+hello\r\n"))
		}
		accepted <- conn
	}()
	nobody, err := tls.Dial("tcp", address, &tls.Config{RootCAs: app.now.Load().pool, MinVersion: tls.VersionTLS12})
	if err == nil {
		if _, err = nobody.Read(make([]byte, 1)); err == nil {
			t.Error("one without a certificate is let in")
		}
		nobody.Close()
	}
	plain, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	plain.Write([]byte("PING\r\n"))
	io.Copy(io.Discard, plain) // until it is hung up
	plain.Close()
	conn, err := app.DialRedis(context.Background(), &net.Dialer{}, address)
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 8)
	if _, err := io.ReadFull(conn, line); err != nil || string(line) != "+hello\r\n" {
		t.Errorf("%q, %v", line, err)
	}
	conn.Close()
	(<-accepted).Close()
	if err := listener.Close(); err != nil {
		t.Error(err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end: %v", err)
	}
	if !strings.Contains(log.String(), "peer refused") {
		t.Errorf("nobody was told of those that were refused:\n%s", log.String())
	}
}

func TestPapersAreShown(t *testing.T) {
	home := newAuthority(t, "prod")
	files := home.issue("n1", Request{Roles: []Role{Replicator, KVNode}, Name: "n1", Hosts: []string{"n1.example", "10.0.0.1"}})
	papers, err := Read(files.Cert)
	if err != nil || len(papers) != 1 {
		t.Fatal(papers, err)
	}
	p := papers[0]
	if p.CA || p.Subject != "n1" || len(p.Identities) != 2 || strings.Join(p.Hosts, " ") != "n1.example 10.0.0.1" || !p.To.After(p.From) {
		t.Errorf("%+v", p)
	}
	if papers, err := Read(files.CA); err != nil || !papers[0].CA {
		t.Error(papers, err)
	}
	for _, path := range []string{files.Key, files.Cert, filepath.Join(home.dir, CAKeyFile), files.CA} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	if err := MakeCA(filepath.Join(t.TempDir(), "x"), "no good", time.Hour); err == nil {
		t.Error("a cluster id that cannot stand in a certificate is taken")
	}
}

// What could go wrong: a URI of somebody else is taken for an identity, or one that reads in two ways.
func FuzzIdentities(f *testing.F) {
	f.Add("lockstep", "prod", "/admin/a")
	f.Add("lockstep", "prod", "/admin/a/b")
	f.Add("https", "prod", "/admin/a")
	f.Fuzz(func(t *testing.T, scheme, host, path string) {
		cert := &x509.Certificate{}
		uri := (Identity{"c", Admin, "a"}).URI()
		uri.Scheme, uri.Host, uri.Path = scheme, host, path
		cert.URIs = append(cert.URIs, uri)
		for _, id := range identitiesOf(cert) {
			if err := id.Check(); err != nil || id.String() != uri.String() {
				t.Errorf("%q is read as %s: %v", uri, id, err)
			}
		}
	})
}
