package e2e

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"lockstep/internal/local"
	"lockstep/proto"
)

// secrets are texts that nobody may find, by what they are, and the places that were searched.
type secrets struct {
	t      *testing.T
	texts  map[string]string
	places int
}

// password makes a password; its hash is as secret.
func (s *secrets) password(what string) string {
	word := "geheim-" + rand.Text()
	s.texts[what] = word
	s.texts["the hash of "+what] = fmt.Sprintf("%x", sha256.Sum256([]byte(word)))
	return word
}

// search looks for all of them in a text. least is what it must hold, or it shows nothing.
func (s *secrets) search(place, text, least string) {
	s.t.Helper()
	s.places++
	if !strings.Contains(text, least) {
		s.t.Errorf("%s was not read: it does not hold %q: %.300q", place, least, text)
	}
	for what, secret := range s.texts {
		if at := strings.Index(text, secret); at >= 0 {
			s.t.Errorf("%s holds %s: …%s…", place, what, text[max(0, at-80):min(len(text), at+len(secret)+20)])
		}
	}
}

// What could go wrong: a password, its hash, a key or a code that lets somebody in stands where people look, or where logs are gathered. All kinds of
// secrets are given to a cluster with TLS, rightly and wrongly; then everything that it says of itself is searched for them.
func TestSecretsAppearNowhere(t *testing.T) {
	s := &secrets{t: t, texts: map[string]string{}}
	w := start(t, local.Options{TLS: true}, nil)
	w.healthy(t)
	ctx := context.Background()
	node := w.Plan.Replicas[0]
	connect := func(options redis.Options) *redis.Client {
		options.Addr, options.TLSConfig, options.ReadTimeout, options.WriteTimeout, options.MaxRetries = node.KVAddr, w.clientTLS(t), patience, patience, -1
		client := redis.NewClient(&options)
		t.Cleanup(func() { client.Close() })
		return client
	}
	client := connect(redis.Options{})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(client.ConfigSet(ctx, "slowlog-log-slower-than", "0").Err())
	must(client.ConfigSet(ctx, "slowlog-max-len", "1000").Err())
	monitored := w.monitor(t, node.KVAddr)

	ann, bob := s.password("ann's password"), s.password("bob's password")
	must(client.Do(ctx, "ACL", "SETUSER", "ann", "on", ">"+ann, "~*", "+@all").Err())
	change := &proto.ChangeSettings{By: "test", Settings: []*proto.Setting{{Kind: "user", Name: "bob", Value: "on >" + bob + " ~* +get"}}}
	if _, err := w.admin.Change(ctx, &proto.ChangeRequest{Group: w.Plan.Group, Change: &proto.ChangeRequest_Settings{Settings: change}}); err != nil {
		t.Fatal(err)
	}
	must(client.ConfigSet(ctx, "masterauth", s.password("masterauth")).Err())
	must(connect(redis.Options{Username: "ann", Password: ann}).Set(ctx, "k", "v", 0).Err()) // HELLO with AUTH
	must(client.Conn().AuthACL(ctx, "ann", ann).Err())
	if client.Conn().AuthACL(ctx, "ann", s.password("a password that was mistyped")).Err() == nil {
		t.Error("a wrong password is taken")
	}
	if client.Do(ctx, "ACL", "SETUSER", "carl", "on", ">"+s.password("a password in a rule that is refused"), "nonsense").Err() == nil {
		t.Error("nonsense is taken")
	}
	reply, err := w.admin.OpenWeb(ctx)
	must(err)
	s.texts["a code of the web page"] = reply.GetCode()
	s.keys(w.TLSDir())
	slow, err := client.Do(ctx, "SLOWLOG", "GET", "1000").Result()
	must(err)
	denied, err := client.Do(ctx, "ACL", "LOG").Result()
	must(err)
	clients, err := client.ClientList(ctx).Result()
	must(err)
	info, err := client.Info(ctx, "everything").Result()
	must(err)
	must(client.Echo(ctx, "the end of it").Err())
	s.search("MONITOR", monitored("the end of it"), "redacted")
	s.search("SLOWLOG", fmt.Sprint(slow), "slowlog-max-len")
	s.search("ACL LOG", fmt.Sprint(denied), "ann")
	s.search("CLIENT LIST", clients, "addr=")
	s.search("INFO", info, "redis_version")

	w.searchBundle(t, s)
	must(client.ConfigSet(ctx, "requirepass", s.password("requirepass")).Err())
	browser := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	for _, p := range w.Processes() {
		for _, file := range []string{"cmdline", "environ"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid, file))
			must(err)
			least := ""
			if file == "cmdline" {
				least = "--cluster"
			}
			s.search("/proc/"+p.Name+"/"+file, string(text), least)
		}
		text, err := os.ReadFile(w.LogPath(p.Name))
		must(err)
		s.search("the log of "+p.Name, string(text), "msg=")
		paths := map[string]string{"/metrics": "lockstep_"}
		if p.Kind == local.KindConfmaster {
			paths["/web/state"], paths["/web/history"], paths["/web/settings"], paths["/web/session"] = w.Plan.Group, "established", "masterauth", w.Plan.Cluster
		}
		for path, least := range paths {
			_, body, err := fetch(browser, "https://"+w.HTTPAddr(p)+path)
			must(err)
			s.search(p.Name+path, string(body), least)
		}
	}
	entries, err := w.admin.WorkLog(ctx, w.Plan.Group, 1000)
	must(err)
	s.search("the work log", fmt.Sprint(entries), "audit: ")
	t.Logf("%d secrets, %d places", len(s.texts), s.places)
}

// keys takes the middle of every key in a directory for a secret.
func (s *secrets) keys(dir string) {
	s.t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.key"))
	if err != nil || len(names) < 5 {
		s.t.Fatalf("keys in %s: %v, %v", dir, names, err)
	}
	for _, name := range names {
		content, err := os.ReadFile(name)
		lines := strings.Split(string(content), "\n")
		if err != nil || len(lines) < 3 || len(lines[1]) < 40 {
			s.t.Fatalf("%s is no key: %v", name, err)
		}
		s.texts["the key "+filepath.Base(name)] = lines[1]
	}
}

// monitor collects what MONITOR shows; the function returns it once it holds a text.
func (w *world) monitor(t *testing.T, addr string) func(until string) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, w.monitorTLS(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := io.WriteString(conn, "MONITOR\r\n"); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(conn)
	if ok, err := lines.ReadString('\n'); err != nil || ok != "+OK\r\n" {
		t.Fatal(ok, err)
	}
	return func(until string) string {
		t.Helper()
		var all strings.Builder
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			all.WriteString(line)
			if strings.Contains(line, until) {
				return all.String()
			}
		}
	}
}

func (w *world) monitorTLS(t *testing.T) *tls.Config {
	config := w.clientTLS(t).Clone()
	config.ServerName = "localhost"
	return config
}

// searchBundle searches every part of a debug bundle.
func (w *world) searchBundle(t *testing.T, s *secrets) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "b.tar.gz")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if said, err := w.smrctlOf(ctx, "debug", "bundle", "--file", path).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	packed, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	parts := 0
	for archive := tar.NewReader(packed); ; parts++ {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		var text []byte
		if err == nil {
			text, err = io.ReadAll(archive)
		}
		if err != nil {
			t.Fatal(err)
		}
		s.search("the debug bundle's "+header.Name, string(text), "")
	}
	if parts < 20 {
		t.Errorf("the bundle has %d parts", parts)
	}
}
