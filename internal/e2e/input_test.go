package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"lockstep/internal/local"
)

// lockedBuffer takes the output of a process while a test looks at it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

// garbage is what strangers send.
func garbage() map[string][]byte {
	random := make([]byte, 1<<20)
	source := rand.NewChaCha8([32]byte{1})
	source.Read(random)
	return map[string][]byte{
		"random bytes":           random,
		"an endless line":        bytes.Repeat([]byte("a"), 8<<20),
		"zeros":                  make([]byte, 1<<20),
		"a huge array":           []byte("*2147483647\r\n$3\r\nGET\r\n"),
		"a negative array":       []byte("*-7\r\n"),
		"a huge string":          []byte("*2\r\n$3\r\nGET\r\n$9999999999999\r\n"),
		"a huge frame":           append([]byte{0xff, 0xff, 0xff, 0x7f, 1, 2, 3, 4}, make([]byte, 1000)...),
		"a frame of nothing":     make([]byte, 8),
		"a half frame":           {0x20, 0, 0, 0, 1, 2},
		"nested arrays":          bytes.Repeat([]byte("*1\r\n"), 100_000),
		"an HTTP request":        []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"half an HTTP/2 preface": []byte("PRI * HTTP/2.0\r\n"),
	}
}

// What could go wrong: somebody's broken client, port scanner or fuzzer takes a process down, or makes it take memory
// without bound. Everything is sent to every port; all processes must live on with bounded memory, and serve.
func TestGarbageOnEveryPort(t *testing.T) {
	w := start(t, local.Options{}, nil)
	before := make(map[string]int)
	for _, p := range w.Processes() {
		before[p.Name] = p.Pid
	}
	var ports []string
	for _, r := range w.Plan.Replicas[:2] { // a master and a slave, or two slaves: they listen alike
		ports = append(ports, r.KVAddr, r.DataAddr, r.ManageAddr)
	}
	ports = append(ports, w.Plan.Confmasters[0].Addr, w.Plan.Confmasters[0].SentinelAddr)
	l := w.startLoad(t, loadOptions{writers: 1})
	var wait sync.WaitGroup
	for _, addr := range ports {
		wait.Go(func() {
			for name, content := range garbage() {
				if err := throw(addr, content); err != nil {
					t.Errorf("%s on %s: %v", name, addr, err)
				}
			}
		})
	}
	wait.Wait()
	l.progress(t, w.others()...)
	for _, p := range w.Processes() {
		if p.Pid != before[p.Name] {
			t.Errorf("%s has ended:\n%s", p.Name, w.Tail(p.Name, 20))
			continue
		}
		const most = 1 << 30 // far above what a small cluster takes, far below what was announced
		if resident := residentBytes(t, p.Pid); resident > most {
			t.Errorf("%s takes %d MiB", p.Name, resident>>20)
		}
	}
	l.finish(t)
}

// throw sends content to addr, twice: once it hangs up at once, once it waits a moment for what the other side does.
func throw(addr string, content []byte) error {
	for _, stay := range []time.Duration{0, 50 * time.Millisecond} {
		c, err := dial(addr)
		if err != nil {
			return fmt.Errorf("does not listen any more: %w", err)
		}
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			return err
		}
		c.Write(content) // it may well be refused in the middle
		if stay > 0 {
			c.SetReadDeadline(time.Now().Add(stay))
			c.Read(make([]byte, 1024))
		}
		c.Close()
	}
	return nil
}

// residentBytes returns the memory that a process holds.
func residentBytes(t *testing.T, pid int) int64 {
	t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(content), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return kib << 10
		}
	}
	t.Fatalf("no VmRSS for %d", pid)
	return 0
}
