package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/admin"
	"lockstep/internal/local"
	"lockstep/internal/trust"
	"lockstep/proto"
)

// clientTLS is what a Redis client of the cluster needs.
func (w *world) clientTLS(t *testing.T) *tls.Config {
	t.Helper()
	files := w.ClientCertificate()
	pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// logged reports whether a process has written a text to its log.
func (w *world) logged(name, text string) error {
	content, err := os.ReadFile(w.LogPath(name))
	if err == nil && !bytes.Contains(content, []byte(text)) {
		err = fmt.Errorf("%s has not said %q", name, text)
	}
	return err
}

// What could go wrong: a cluster with TLS loses a write when its master dies, speaks in the clear at some port, lets in who has a
// certificate of another cluster or another role, keeps a certificate that was replaced, or leaves files that others can read.
func TestClusterWithTLS(t *testing.T) {
	w := start(t, local.Options{TLS: true}, nil)
	config := w.clientTLS(t)
	first, _ := w.master(t)
	ctx := context.Background()
	var nodes []*redis.Client
	for _, r := range w.Plan.Replicas {
		client := redis.NewClient(&redis.Options{Addr: r.KVAddr, TLSConfig: config, MaxRetries: -1, ReadTimeout: 2 * patience, WriteTimeout: patience})
		defer client.Close()
		nodes = append(nodes, client)
	}
	survivor := nodes[0]
	if w.Plan.Replicas[0].Node == first {
		survivor = nodes[1]
	}
	written := 0
	write := func() {
		t.Helper()
		for range 50 {
			if n, err := survivor.RPush(ctx, "list", written).Result(); err != nil || int(n) != written+1 {
				t.Fatalf("element %d: %d, %v", written, n, err)
			}
			written++
		}
	}
	write()
	for _, part := range []string{"-replicator", "-kvnode"} {
		if err := w.Signal(first+part, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	write() // nobody notices but by a pause
	if second, _ := w.master(t); second == first {
		t.Errorf("%s leads although it was killed", first)
	}
	for _, part := range []string{"-replicator", "-kvnode"} {
		if _, err := w.StartProcess(first+part, binaries); err != nil {
			t.Fatal(err)
		}
	}
	w.healthy(t)
	for i, client := range nodes {
		if n, err := client.LLen(ctx, "list").Result(); err != nil || int(n) != written {
			t.Errorf("node %d has %d of %d elements, %v", i+1, n, written, err)
		}
	}
	if payload := strings.Repeat("x", 1<<20); survivor.Set(ctx, "big", payload, 0).Err() != nil || nodes[2].Get(ctx, "big").Val() != payload {
		t.Error("a large value does not come through")
	}
	t.Run("nothing is said in the clear", w.refusesPlain)
	t.Run("certificates of others are refused", w.refusesStrangers)
	t.Run("roles", w.keepsRoles)
	t.Run("a new certificate is taken", w.takesNewCertificate)
	t.Run("files are private", func(t *testing.T) { private(t, w.Dir) })
	write()
}

// refusesPlain knocks at every port without TLS.
func (w *world) refusesPlain(t *testing.T) {
	var ports []string
	for _, r := range w.Plan.Replicas {
		ports = append(ports, r.KVAddr, r.DataAddr, r.ManageAddr, r.AdminAddr())
	}
	for _, m := range w.Plan.Confmasters {
		ports = append(ports, m.Addr, m.SentinelAddr)
	}
	for _, port := range ports {
		conn, err := net.Dial("tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(patience))
		fmt.Fprintf(conn, "*1\r\n$4\r\nPING\r\n")
		answer, err := io.ReadAll(io.LimitReader(conn, 1<<10))
		if errors.Is(err, os.ErrDeadlineExceeded) || bytes.ContainsAny(answer, "+-") && bytes.Contains(answer, []byte("\r\n")) {
			t.Errorf("%s answers a client without TLS: %q, %v", port, answer, err)
		}
		conn.Close()
	}
	stranger, err := admin.New(w.Plan.ConfmasterAddrs(), admin.Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	deadline, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := stranger.Status(deadline); err == nil || !strings.Contains(err.Error(), "--tls-ca") {
		t.Errorf("without a certificate: %v", err)
	}
	eventually(t, "a configuration master says who came without TLS", func() error {
		return errors.Join(w.logged("c1", "does not speak TLS"))
	})
}

// keeper opens a certificate.
func keeper(t *testing.T, files trust.Files) *trust.Keeper {
	t.Helper()
	k, err := trust.Open(files, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// refusesStrangers shows certificates of another cluster's CA, and of this CA for another node.
func (w *world) refusesStrangers(t *testing.T) {
	dir := t.TempDir()
	if err := trust.MakeCA(dir, w.Plan.Cluster, time.Hour); err != nil { // it even says that it is the same cluster
		t.Fatal(err)
	}
	foreign, err := trust.Issue(dir, dir, "n1", trust.Request{Roles: []trust.Role{trust.Replicator, trust.KVNode, trust.Admin}, Name: "n1", Life: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	foreign.CA = w.ClientCertificate().CA // it accepts ours
	k := keeper(t, foreign)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	client, err := admin.New(w.Plan.ConfmasterAddrs(), admin.Login{Keeper: k})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Status(ctx); err == nil || !strings.Contains(err.Error(), "the peer refuses our certificate") {
		t.Errorf("a certificate of another CA: %v", err)
	}
	eventually(t, "the replicator says who came", func() error { // it says so once a second at most
		conn, err := k.Dial(ctx, &net.Dialer{}, w.Plan.Replicas[0].DataAddr, trust.Wanted{Role: trust.Replicator})
		if err == nil { // the server's no comes behind the handshake
			conn.SetDeadline(time.Now().Add(patience))
			_, err = conn.Read(make([]byte, 1))
			conn.Close()
		}
		if !trust.IsTrust(err) {
			t.Errorf("at the data port: %v", err)
		}
		return w.logged("n1-replicator", "not signed by a CA in --tls-ca")
	})

	// n3's certificate used by a process that says that it is n1.
	stolen := exec.Command(filepath.Join(binaries, "replicator"), "--dir", t.TempDir(), "--cluster", w.Plan.Cluster, "--node", "n9",
		"--data", "127.0.0.1:0", "--manage", "127.0.0.1:0", "--tls-ca", filepath.Join(w.TLSDir(), "ca.crt"),
		"--tls-cert", filepath.Join(w.TLSDir(), "n3.crt"), "--tls-key", filepath.Join(w.TLSDir(), "n3.key"))
	if out, err := stolen.CombinedOutput(); err == nil || !strings.Contains(string(out), "this process is lockstep://"+w.Plan.Cluster+"/replicator/n9") {
		t.Errorf("a process starts with the certificate of another: %v\n%s", err, out)
	}
}

// keepsRoles has a viewer and an operator do what they may and what they may not, and looks who is on record.
func (w *world) keepsRoles(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	as := func(name string, role trust.Role) *admin.Client {
		files, err := trust.Issue(w.TLSDir(), t.TempDir(), name, trust.Request{Cluster: w.Plan.Cluster, Roles: []trust.Role{role}, Name: name, Life: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		client, err := admin.New(w.Plan.ConfmasterAddrs(), admin.Login{Keeper: keeper(t, files)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(client.Close)
		return client
	}
	vera, otto := as("vera", trust.Viewer), as("otto", trust.Operator)
	if _, err := vera.Status(ctx); err != nil {
		t.Errorf("a viewer may not look: %v", err)
	}
	if _, err := vera.Switchover(ctx, w.Plan.Group, ""); err == nil || !strings.Contains(err.Error(), "viewer/vera may not call Switchover: it needs the role operator") {
		t.Errorf("a viewer switches over: %v", err)
	}
	if _, err := otto.Switchover(ctx, w.Plan.Group, ""); err != nil {
		t.Errorf("an operator may not switch over: %v", err)
	}
	if _, err := vera.DrillState(ctx, w.Plan.Group); err != nil {
		t.Errorf("a viewer may not see which drill is under way: %v", err)
	}
	if _, err := vera.EndDrill(ctx, w.Plan.Group, "d1"); err == nil || !strings.Contains(err.Error(), "viewer/vera may not call EndDrill: it needs the role operator") {
		t.Errorf("a viewer ends a drill: %v", err)
	}
	if _, err := otto.EndDrill(ctx, w.Plan.Group, "d1"); err == nil || !strings.Contains(err.Error(), "drill d1 holds no process of group") {
		t.Errorf("an operator may not end a drill: %v", err)
	}
	user := &proto.ChangeRequest{Group: w.Plan.Group, Change: &proto.ChangeRequest_Settings{Settings: &proto.ChangeSettings{Settings: []*proto.Setting{{Kind: "user", Name: "x", Value: "on"}}}}}
	if _, err := otto.Change(ctx, user); err == nil || !strings.Contains(err.Error(), "operator/otto may not change user x: it needs the role admin") {
		t.Errorf("an operator makes users: %v", err)
	}
	if _, err := w.admin.Change(ctx, user); err != nil {
		t.Errorf("an admin makes no users: %v", err)
	}
	entries, err := vera.WorkLog(ctx, w.Plan.Group, 1000)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, entry := range entries {
		text += entry.GetReason() + "\n"
	}
	for _, want := range []string{"audit: operator/otto from 127.0.0.1:", ": switch over: done", "audit: admin/admin from 127.0.0.1:", ": change user x: done"} {
		if !strings.Contains(text, want) {
			t.Errorf("not on record: %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "vera") {
		t.Errorf("what was refused stands in the work log:\n%s", text)
	}
}

// takesNewCertificate replaces a KV node's certificate while it runs.
func (w *world) takesNewCertificate(t *testing.T) {
	r := w.Plan.Replicas[1]
	serial := func() (string, error) {
		conn, err := tls.Dial("tcp", r.KVAddr, w.clientTLS(t))
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	before, err := serial()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := trust.Issue(w.TLSDir(), w.TLSDir(), r.Node, trust.Request{Cluster: w.Plan.Cluster, Roles: []trust.Role{trust.Replicator, trust.KVNode},
		Name: r.Node, Hosts: []string{"localhost", "127.0.0.1"}, Life: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if err := w.Signal(local.KVNodeOf(r.Node), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the new certificate is shown", func() error {
		after, err := serial()
		if err == nil && after == before {
			err = errors.New("the old one is")
		}
		return err
	})
	w.healthy(t)
}

// private fails if others than the owner could read anything of a cluster.
func private(t *testing.T, dir string) {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // files come and go
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		seen++
		if info.Mode().Perm()&0o077 != 0 && entry.Type()&fs.ModeSymlink == 0 {
			t.Errorf("others may use %s (%v)", path, info.Mode())
		}
		return nil
	})
	if err != nil || seen < 50 {
		t.Errorf("saw %d files, %v", seen, err)
	}
}
