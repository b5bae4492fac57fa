package obs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

// puppet is a Subject that says what it is told to.
type puppet struct {
	dead    atomic.Bool
	family  Family
	missing map[Role][]string
}

func (p *puppet) Collect(metrics chan<- prometheus.Metric) {
	p.family.Send(metrics, 7, "a\xffb")
	p.family.States(metrics, "odd", []string{"even"})
}

func (p *puppet) Live() error {
	if p.dead.Load() {
		return errors.New("it has not moved")
	}
	return nil
}

func (p *puppet) Ready(role Role) []string { return p.missing[role] }

// start serves o on a free port until the test ends.
func start(t *testing.T, o *Observer, profiles bool) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- o.Serve(ctx, listener, profiles) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return "http://" + listener.Addr().String()
}

func get(t *testing.T, url string) (code int, body string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(content)
}

// What could go wrong: a supervisor is told that all is well when it is not, or the other way round; a reason is missing;
// a process that is only starting is killed as dead. Every path is asked before and after there is a subject.
func TestHealth(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	served := 0
	o := New("kvnode", "1.2 abc", func() { served++ })
	p := &puppet{family: NewFamily(Gauge, "lockstep_test", "For the test.", Labels{"node": "n1"}, "what"), missing: map[Role][]string{
		Master: {"it is a slave", "it cannot write"}, AnyRole: nil,
	}}
	t.Run("served", func(t *testing.T) {
		url := start(t, o, false)
		check := func(path string, code int, parts ...string) {
			t.Helper()
			got, body := get(t, url+path)
			if got != code {
				t.Errorf("%s: %d, want %d: %s", path, got, code, body)
			}
			for _, part := range parts {
				if !strings.Contains(body, part) {
					t.Errorf("%s: does not say %q: %s", path, part, body)
				}
			}
		}
		check("/livez", 200, "ok")
		check("/readyz", 503, "starting")
		check("/metrics", 200, `lockstep_build_info{go_version="go`, `revision="abc",version="1.2"} 1`, "go_goroutines", "process_open_fds")
		o.Show(p)
		check("/livez", 200, "ok")
		check("/healthz", 200, "ok")
		check("/readyz", 200, "ok")
		check("/readyz?role=any", 200, "ok")
		check("/-/ready", 200, "ok")
		check("/readyz?role=slave", 200, "ok")
		check("/readyz?role=master", 503, "it is a slave\nit cannot write\n")
		check("/readyz?role=boss", 400, "master, slave or any")
		check("/metrics", 200, `lockstep_test{node="n1",what="a?b"} 7`, `lockstep_test{node="n1",what="even"} 0`, `lockstep_test{node="n1",what="odd"} 1`)
		check("/version", 200, "kvnode 1.2 abc go")
		check("/", 200, "/metrics")
		check("/nothing", 404)
		check("/debug/pprof/", 404)
		p.dead.Store(true)
		check("/livez", 503, "it has not moved")
		answer, err := http.Post(url+"/livez", "text/plain", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusMethodNotAllowed {
			t.Errorf("POST: %d", answer.StatusCode)
		}
	})
	o.Serving()
	o.Serving()
	if served != 1 {
		t.Errorf("serving was told %d times", served)
	}
}

// Profiles are there when they are asked for; the command line, which may hold a password, is not.
func TestProfiles(t *testing.T) {
	url := start(t, New("kvnode", "1", nil), true)
	for path, code := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/debug/pprof/cmdline": 404} {
		if got, body := get(t, url+path); got != code {
			t.Errorf("%s: %d, want %d: %.200s", path, got, code, body)
		}
	}
}

// What could go wrong: whoever opens connections and says nothing takes all there are, or memory. The one too many is
// closed, and there is room again when another one goes.
func TestConnectionsAreBounded(t *testing.T) {
	url := start(t, New("kvnode", "1", nil), false)
	address := strings.TrimPrefix(url, "http://")
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range maxConnections {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(c, "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := c.Read(make([]byte, 1)); err != nil { // it has been taken
			t.Fatal(err)
		}
		open = append(open, c)
	}
	extra, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	extra.SetReadDeadline(time.Now().Add(time.Minute))
	if n, err := extra.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("one connection too many: %d bytes, %v", n, err)
	}
	open[0].Close()
	open = open[1:]
	for deadline := time.Now().Add(time.Minute); ; {
		answer, err := http.Get(url + "/livez")
		if err == nil {
			answer.Body.Close()
			http.DefaultClient.CloseIdleConnections()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// A nil observer is one that nobody asked for.
func TestNobodyLooks(t *testing.T) {
	var o *Observer
	o.Show(&puppet{})
	o.Serving()
}
