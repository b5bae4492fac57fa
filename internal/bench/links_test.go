package bench

import (
	"bufio"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"lockstep/internal/local"
)

// What could go wrong: a host that has vanished is still heard, or what was held back is lost for good. An echo stands behind
// the link.
func TestHostsVanishAndComeBack(t *testing.T) {
	echo := startServer(t, func(words []string) []byte { return []byte("+" + words[0] + "\r\n") })
	x := &links{cluster: &local.Cluster{}, pipes: make(map[*pipe]struct{}), gone: make(map[string]bool), changed: make(chan struct{}), carried: make(map[route]*atomic.Int64)}
	t.Cleanup(x.close)
	addr, err := x.listen("n1", dataPort, echo.addr)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (net.Conn, func() string) {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		reader := bufio.NewReader(conn)
		return conn, func() string {
			line, err := reader.ReadString('\n')
			if err != nil {
				return err.Error()
			}
			return strings.TrimSpace(line)
		}
	}
	conn, read := dial()
	send := func(conn net.Conn, word string) {
		if _, err := conn.Write(appendCommand(nil, word)); err != nil {
			t.Fatal(err)
		}
	}
	send(conn, "ONE")
	if got := read(); got != "+ONE" {
		t.Fatal(got)
	}
	before := x.carriedBytes()[route{"", dataPort, "n1"}]
	if want := int64(len("*1\r\n$3\r\nONE\r\n") + len("+ONE\r\n")); before != want {
		t.Errorf("%d bytes were carried, %d were sent", before, want)
	}
	back := x.vanish("n1", "c1")
	other, readOther := dial()
	send(conn, "TWO")
	send(other, "NEW")
	answers := make(chan string, 2)
	go func() { answers <- read() }()
	go func() { answers <- readOther() }()
	select {
	case got := <-answers:
		t.Errorf("a host that has vanished says %q", got)
	case <-time.After(50 * time.Millisecond): // longer would show no more: nothing may ever come
	}
	echo.mu.Lock()
	if echo.seen["TWO"]+echo.seen["NEW"] != 0 {
		t.Errorf("it was reached: %v", echo.seen)
	}
	echo.mu.Unlock()
	back()
	got := map[string]bool{<-answers: true, <-answers: true}
	if !got["+TWO"] || !got["+NEW"] {
		t.Errorf("what was held back arrives as %v", got)
	}
}

// A socket's number is found by its port, and its process by the number.
func TestWhoHoldsAConnection(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	socket := socketOf(conn.LocalAddr().(*net.TCPAddr).Port)
	if socket == "" || !holds(os.Getpid(), socket) || holds(1<<22+1, socket) || holds(os.Getpid(), "0") {
		t.Errorf("socket %q", socket)
	}
}

func TestMetricsAreSummedByLabel(t *testing.T) {
	m := metrics{`a_sum{x="1",y="2"}`: 1, `a_sum{x="2"}`: 2, "a_sum": 4, `a_sum_more{x="1"}`: 8}
	if m.sum("a_sum") != 7 || m.sum("a_sum", `x="1"`) != 1 || m.sum("b") != 0 {
		t.Error(m.sum("a_sum"), m.sum("a_sum", `x="1"`))
	}
}
