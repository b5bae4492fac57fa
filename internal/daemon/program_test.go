package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/level"
	"lockstep/internal/obs"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"go.uber.org/goleak"
)

// lines is a log that may be read while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// find returns the first line with that message, nil if there is none yet.
func (l *lines) find(t *testing.T, message string) map[string]any {
	l.mu.Lock()
	defer l.mu.Unlock()
	for line := range strings.Lines(l.text.String()) {
		fields := make(map[string]any)
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Errorf("%s: %v", line, err)
		}
		if fields["msg"] == message {
			return fields
		}
	}
	return nil
}

// What could go wrong: what the program shows is there too late, or goes on after its end; a program that fails hangs
// because somebody still serves; its failure is told in another form than the log's. The program asks itself.
func TestProgramIsShownWhileItRuns(t *testing.T) {
	defer goleak.VerifyNone(t)
	defer http.DefaultClient.CloseIdleConnections()
	s := newSample()
	var log lines
	address := ""
	s.Run = func(ctx context.Context, logger *slog.Logger, observer *obs.Observer) error {
		address, _ = log.find(t, "http")["address"].(string)
		for _, path := range []string{"/livez", "/metrics", "/debug/pprof/"} {
			answer, err := http.Get("http://" + address + path)
			if err != nil {
				return err
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", path, answer.StatusCode)
			}
		}
		return errors.New("it does not work")
	}
	arguments := []string{"--http", "127.0.0.1:0", "--pprof", "--log-format", "json"}
	if code := s.Execute(context.Background(), arguments, &log, &log); code != ExitFailed {
		t.Errorf("exit code %d", code)
	}
	if failed := log.find(t, "sample failed"); failed["error"] != "it does not work" || failed["node"] != "n1" || failed["level"] != "ERROR" {
		t.Errorf("%v", failed)
	}
	if conn, err := net.Dial("tcp", address); err == nil {
		conn.Close()
		t.Errorf("somebody still listens on %s", address)
	}
}

func TestUsage(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for arguments, test := range map[string]struct {
		code int
		want string
	}{
		"":                                {ExitDone, `msg="sample stopped" node=n1`},
		"--version":                       {ExitDone, "sample "},
		"--version --config /no":          {ExitDone, "sample "},
		"--help":                          {ExitDone, "Usage: sample --listen ADDR [flags]"},
		"--pprof":                         {ExitUsage, "give --http"},
		"--log-level loud":                {ExitUsage, "log-level"},
		"--log-level error":               {ExitDone, ""},
		"word":                            {ExitUsage, `unexpected argument "word"`},
		"--http nonsense":                 {ExitUsage, "use host:port"},
		"--http " + taken.Addr().String(): {ExitFailed, "address already in use"},
	} {
		var out bytes.Buffer
		if code := newSample().Execute(context.Background(), strings.Fields(arguments), &out, &out); code != test.code || !strings.Contains(out.String(), test.want) {
			t.Errorf("%q: exit code %d, want %d and %q: %s", arguments, code, test.code, test.want, out.String())
		}
	}
}

// What could go wrong: systemd waits for ever for a service that serves, kills one that lives, or keeps one that does
// not. A socket stands in for it.
func TestServiceManagerIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "20000")
	t.Setenv("WATCHDOG_PID", "")
	next := func() string {
		t.Helper()
		buffer := make([]byte, 256)
		socket.SetReadDeadline(time.Now().Add(time.Minute))
		n, err := socket.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	until := func(want string) {
		t.Helper()
		for got := next(); !strings.HasPrefix(got, want); got = next() {
			if got != "WATCHDOG=1" {
				t.Fatalf("%q instead of %q", got, want)
			}
		}
	}
	s := newSample()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	s.Run = func(ctx context.Context, _ *slog.Logger, observer *obs.Observer) error {
		observer.Serving()
		<-ctx.Done()
		return nil
	}
	ended := make(chan int, 1)
	var out lines
	go func() { ended <- s.Execute(ctx, nil, &out, &out) }()
	until("READY=1")
	until("WATCHDOG=1")
	until("WATCHDOG=1")
	stop()
	until("STOPPING=1")
	if code := <-ended; code != ExitDone {
		t.Errorf("exit code %d", code)
	}
}

// What could go wrong: a process that is wedged goes on saying that it lives.
func TestNoSignOfLifeFromTheDead(t *testing.T) {
	var out lines
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "2000")
	m := openManager(slog.New(slog.NewTextHandler(&out, nil)))
	ctx, stop := context.WithCancel(context.Background())
	asked := 0
	m.watchdog(ctx, func() error {
		if asked++; asked == 3 {
			stop()
		}
		return errors.New("wedged")
	})
	m.tell("END=1")
	m.close()
	buffer := make([]byte, 64)
	n, err := socket.Read(buffer)
	if err != nil || string(buffer[:n]) != "END=1" {
		t.Errorf("%q, %v", buffer[:n], err)
	}
	if !strings.Contains(out.text.String(), "wedged") {
		t.Error("nobody was told why")
	}
	m.tell("LATE=1") // closed: nobody is there any more
}

func TestWatchdogPeriod(t *testing.T) {
	for _, test := range []struct {
		micros, pid string
		want        time.Duration
	}{
		{"", "", 0}, {"x", "", 0}, {"0", "", 0}, {"-5", "", 0}, {"1000000", "", time.Second}, {"1000000", "7", time.Second},
		{"1000000", "8", 0}, {"999999999999999999", "7", 0},
	} {
		if got := watchdogPeriod(test.micros, test.pid, 7); got != test.want {
			t.Errorf("%q for %q: %v, want %v", test.micros, test.pid, got, test.want)
		}
	}
}

// A service manager that cannot be reached is a warning, not a failure.
func TestManagerThatIsGone(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", filepath.Join(t.TempDir(), "none"))
	var out lines
	m := openManager(slog.New(slog.NewTextHandler(&out, nil)))
	m.ready()
	m.close()
	if !strings.Contains(out.text.String(), "NOTIFY_SOCKET") {
		t.Errorf("%q", out.text.String())
	}
	if os.Getenv("NOTIFY_SOCKET") == "" {
		t.Error("the test did not set what it tests")
	}
}

// The collector must keep within the memory that the process may take, leave it alone where there is no limit, and where the operator has said so.
func TestMemoryIsLimited(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(math.MaxInt64))
	limitMemory(func() (uint64, error) { return 0, errors.New("no cgroups here") })
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the limit is %d", got)
	}
	limitMemory(func() (uint64, error) { return 0, memlimit.ErrNoLimit })
	if got := debug.SetMemoryLimit(-1); got != math.MaxInt64 {
		t.Errorf("the limit is %d", got)
	}
	limitMemory(memlimit.Limit(1000 << 20))
	if got := debug.SetMemoryLimit(-1); got != 850<<20 {
		t.Errorf("the limit is %d", got)
	}
	t.Setenv("GOMEMLIMIT", "2GiB")
	limitMemory(memlimit.Limit(500 << 20))
	if got := debug.SetMemoryLimit(-1); got != 850<<20 {
		t.Errorf("the limit is %d", got)
	}
}

// What could go wrong: a service manager starts a program that is too old for its cluster for ever, and nobody reads why it ends.
func TestTooOldAProgramIsNotStartedAgain(t *testing.T) {
	s := newSample()
	s.Run = func(context.Context, *slog.Logger, *obs.Observer) error {
		return fmt.Errorf("raft: %w", level.Check(7, 2))
	}
	var log lines
	if code := s.Execute(context.Background(), []string{"--log-format", "json"}, &log, &log); code != ExitUsage {
		t.Errorf("exit code %d", code)
	}
	text, _ := log.find(t, "sample failed")["error"].(string)
	for _, part := range []string{"too old", "level is 7", "supports 2 at most", "install"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

// What could go wrong: on one processor an event loop that waits holds the only one that Go's code may run on.
func TestSharesOfProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	for _, test := range []struct {
		share      Share
		have, want int
		chosen     bool
	}{
		{All, 1, 2, false}, {All, 2, 2, false}, {All, 8, 8, false}, {All, 1, 1, true},
		{Half, 1, 1, false}, {Half, 2, 1, false}, {Half, 9, 4, false}, {Half, 4, 4, true},
	} {
		runtime.GOMAXPROCS(test.have)
		test.share.take(test.chosen)
		if got := runtime.GOMAXPROCS(0); got != test.want {
			t.Errorf("share %d of %d, chosen %v: %d, not %d", test.share, test.have, test.chosen, got, test.want)
		}
	}
}
