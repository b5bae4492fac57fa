package floor

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// asPart in the environment makes the test's own program a process of the skeleton.
const asPart = "FLOOR_TEST_PART"

func TestMain(m *testing.M) {
	if os.Getenv(asPart) != "" {
		fmt.Fprintln(os.Stderr, RunPart(os.Args[1]))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// patience is for what must come; nothing here waits that long unless it fails.
const patience = 30 * time.Second

func start(t *testing.T, o Options) *Skeleton {
	t.Helper()
	t.Setenv(asPart, "1")
	o.Program, o.Dir = []string{os.Args[0]}, t.TempDir()
	o.Flights = max(o.Flights, 1)
	s, err := Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (s *Skeleton) part(t *testing.T, kind, node string) Part {
	t.Helper()
	for _, p := range s.Parts {
		if p.Kind == kind && p.Node == node {
			return p
		}
	}
	t.Fatalf("no %s on %s", kind, node)
	return Part{}
}

// signal sends a signal and waits until the process is dead, or stopped, or not stopped any more.
func signal(t *testing.T, p Part, what unix.Signal) {
	t.Helper()
	if err := unix.Kill(p.Pid, what); err != nil {
		t.Fatal(err)
	}
	await(t, fmt.Sprintf("%s %s follows %v", p.Kind, p.Node, what), func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		if err != nil {
			t.Fatal(err)
		}
		state := stat[bytes.LastIndexByte(stat, ')')+2]
		switch what {
		case unix.SIGKILL:
			return state == 'Z'
		case unix.SIGSTOP:
			return state == 'T'
		}
		return state != 'T'
	})
}

func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

type user struct {
	net.Conn
	reader *bufio.Reader
}

func connect(t *testing.T, s *Skeleton) user {
	t.Helper()
	conn, err := net.Dial("tcp", s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return user{conn, bufio.NewReader(conn)}
}

func (u user) send(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(u, text); err != nil {
		t.Fatal(err)
	}
}

// expect reads replies, byte by byte as they must be.
func (u user) expect(t *testing.T, replies string) {
	t.Helper()
	if err := u.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(replies))
	if _, err := io.ReadFull(u.reader, got); err != nil || string(got) != replies {
		t.Fatalf("replies %.200q, want %.200q, %v", got, replies, err)
	}
}

// expectSilence fails if anything comes. It can pass although something would have come later; callers make sure of that in another way.
func (u user) expectSilence(t *testing.T) {
	t.Helper()
	if err := u.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if b, err := u.reader.ReadByte(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("%q came, %v", b, err)
	}
}

func set(key, value string) string {
	return fmt.Sprintf("*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, len(value), value)
}

func get(key string) string { return fmt.Sprintf("*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(key), key) }

// copies returns how many loggers have the text in their files, which no test here fills further than a MiB.
func (s *Skeleton) copies(t *testing.T, text string) (count int) {
	t.Helper()
	for _, p := range s.Parts {
		if p.Kind != KindLogger {
			continue
		}
		file, err := os.Open(p.File)
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, 1<<20)
		_, err = io.ReadFull(file, content)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(text)) {
			count++
		}
	}
	return count
}

// What could go wrong: the floor is lower than any system may go, since it answers before two nodes have what it was told. Loggers are stopped
// and killed: with one of n2 and n3 it goes on, without both it is silent, and whatever it answered is in two files.
func TestAnAnswerIsInTwoFiles(t *testing.T) {
	for _, o := range []Options{{Sync: SyncAlways}, {Sync: SyncOS}, {Sync: SyncAlways, Full: true, Flights: 2}} {
		t.Run(fmt.Sprintf("%s full %v flights %d", o.Sync, o.Full, o.Flights), func(t *testing.T) {
			s := start(t, o)
			u := connect(t, s)
			written := 0
			write := func() {
				t.Helper()
				command := set(fmt.Sprintf("key:%d", written), "value")
				u.send(t, command)
				u.expect(t, "+OK\r\n")
				if copies := s.copies(t, command); copies < 2 {
					t.Fatalf("write %d was answered and is in %d files", written, copies)
				}
				written++
			}
			second, third := s.part(t, KindLogger, "n2"), s.part(t, KindLogger, "n3")
			for range 10 {
				write()
			}
			signal(t, second, unix.SIGSTOP)
			for range 10 {
				write()
			}
			signal(t, third, unix.SIGSTOP)
			held := set("held", "until n2 goes on")
			u.send(t, held)
			await(t, "n1 has it", func() bool { return s.copies(t, held) == 1 })
			u.expectSilence(t)
			signal(t, second, unix.SIGCONT)
			u.expect(t, "+OK\r\n")
			if s.copies(t, held) < 2 {
				t.Fatal("what n2 was needed for is not in its file")
			}
			signal(t, third, unix.SIGKILL)
			for range 10 {
				write()
			}
			signal(t, second, unix.SIGKILL)
			u.send(t, set("lost", "for ever"))
			await(t, "n1 has it", func() bool { return s.copies(t, set("lost", "for ever")) == 1 })
			u.expectSilence(t)
			other := connect(t, s) // silent it is, not dead
			other.send(t, get("nothing"))
			other.expect(t, map[bool]string{true: "$-1\r\n", false: string(replyFixed)}[o.Full])
		})
	}
}

// What could go wrong: a sync is left out, or its error. /dev/null takes every write and refuses every sync.
func TestASyncIsMadeInAlwaysOnly(t *testing.T) {
	for sync, want := range map[string]error{SyncAlways: unix.EINVAL, SyncOS: nil} {
		null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		l := &logger{config: Config{Sync: sync}, file: null, incoming: newInbound(pageSize)}
		if err := l.store(100); !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, want %v", sync, err, want)
		}
		unix.Close(null)
	}
}

// Each write begins on a page of its own, and one that does not fit before the end of the file begins at its front.
func TestWritesBeginOnPages(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/ring")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	l := &logger{config: Config{Sync: SyncOS}, file: int(file.Fd()), incoming: newInbound(2 * pageSize), offset: fileSize - 3*pageSize}
	for i, size := range []int{pageSize + 1, 1, 10, pageSize} {
		for at := range size {
			l.incoming.bytes[at] = byte('a' + i)
		}
		if err := l.store(size); err != nil {
			t.Fatal(err)
		}
	}
	for at, want := range map[int64]string{fileSize - 3*pageSize: "aa", fileSize - pageSize: "b\x00", 0: "cc", 10: "\x00\x00", pageSize: "dd"} {
		got := make([]byte, 2)
		if n, err := file.ReadAt(got, at); n < len(strings.TrimRight(want, "\x00")) || string(got) != want {
			t.Errorf("at %d stands %q, want %q, %v", at, got[:n], want, err)
		}
	}
	if l.offset != 2*pageSize {
		t.Errorf("the next write begins at %d", l.offset)
	}
}

// What could go wrong: replies come in another order than their commands, or a GET does not see the SET before it. Several clients send
// random pipelines in random pieces; a map is the twin.
func TestRepliesAreInOrder(t *testing.T) {
	for _, flights := range []int{1, 3} {
		s := start(t, Options{Sync: SyncOS, Full: true, Flights: flights})
		done := make(chan bool)
		for i := range 4 {
			u := connect(t, s)
			go func() {
				defer func() { done <- true }()
				random := rand.New(rand.NewPCG(uint64(i), uint64(flights)))
				twin := make(map[string]string)
				for range 200 {
					var commands, replies strings.Builder
					for range 1 + random.IntN(30) {
						key := fmt.Sprintf("%d:%d", i, random.IntN(5))
						if random.IntN(2) == 0 {
							twin[key] = strings.Repeat(strconv.Itoa(random.IntN(1000)), random.IntN(200))
							commands.WriteString(set(key, twin[key]))
							replies.WriteString("+OK\r\n")
							continue
						}
						commands.WriteString(get(key))
						if value, found := twin[key]; found {
							fmt.Fprintf(&replies, "$%d\r\n%s\r\n", len(value), value)
						} else {
							replies.WriteString("$-1\r\n")
						}
					}
					for text := commands.String(); text != ""; {
						n := min(1+random.IntN(2000), len(text))
						if _, err := io.WriteString(u, text[:n]); err != nil {
							t.Error(err)
							return
						}
						text = text[n:]
					}
					got := make([]byte, replies.Len())
					_ = u.SetReadDeadline(time.Now().Add(patience)) // a connection of the net package has deadlines
					if _, err := io.ReadFull(u.reader, got); err != nil || string(got) != replies.String() {
						t.Errorf("client %d: %.300q, want %.300q, %v", i, got, replies.String(), err)
						return
					}
				}
			}()
		}
		for range 4 {
			<-done
		}
	}
}

// What could go wrong: the other nodes' fronts are there for show, or never learn of the last frames, as nothing comes behind them.
func TestOtherFrontsAreGivenWhatIsCommitted(t *testing.T) {
	s := start(t, Options{Sync: SyncAlways, Full: true})
	read := func(p Part) (bytes int) {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", p.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Sscanf(string(content), "rchar: %d", &bytes); err != nil {
			t.Fatal(err)
		}
		return bytes
	}
	before := []int{read(s.part(t, KindFront, "n2")), read(s.part(t, KindFront, "n3"))}
	u := connect(t, s)
	size := 0
	for i := range 100 {
		command := set(fmt.Sprintf("key:%d", i), strings.Repeat("x", 1000))
		size += headerSize + len(command)
		u.send(t, command)
		u.expect(t, "+OK\r\n")
	}
	for i, node := range []string{"n2", "n3"} {
		await(t, node+" was given all", func() bool { return read(s.part(t, KindFront, node))-before[i] >= size })
	}
}

// What could go wrong: bytes that a socket does not take are lost, sent twice or in another order, or wait for ever.
func TestAStreamKeepsWhatDoesNotFit(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	p, err := newPoller()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p.fd)
	s, err := p.open(pair[0], 7)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	out, scratch, in := newMemory(1<<20), newMemory(10_000), newMemory(1<<20)
	sent := 0
	for range 10 {
		for i := range out.bytes {
			out.bytes[i] = byte((sent + i) % 251)
		}
		if err := s.send(out, 0, len(out.bytes)); err != nil {
			t.Fatal(err)
		}
		sent += len(out.bytes)
	}
	if len(s.pending) == 0 {
		t.Fatal("the socket took 10 MiB: this test shows nothing")
	}
	for got := 0; got < sent; {
		n, err := in.read(pair[1], 0)
		if err != nil {
			t.Fatal(err)
		}
		for i, b := range in.bytes[:n] {
			if b != byte((got+i)%251) {
				t.Fatalf("byte %d is not as it was sent", got+i)
			}
		}
		if got += n; n > 0 {
			continue
		}
		if ready, err := p.wait(int(patience / time.Millisecond)); err != nil || ready != 1 || p.ready[0].Fd != 7 {
			t.Fatalf("%d sockets have room, %v", ready, err)
		}
		if err := s.flush(scratch); err != nil {
			t.Fatal(err)
		}
	}
	// With nothing to send, what the other end reads is nothing to wake up for.
	if err := s.send(out, 0, 10); err != nil {
		t.Fatal(err)
	}
	if n, err := in.read(pair[1], 0); n != 10 || err != nil {
		t.Fatal(n, err)
	}
	if ready, err := p.wait(0); ready != 0 || err != nil {
		t.Errorf("woken for nothing: %d, %v", ready, err)
	}
	for range maxPending >> 20 {
		if err = s.send(out, 0, len(out.bytes)); err != nil {
			break
		}
	}
	if err := errors.Join(err, s.send(out, 0, len(out.bytes))); !errors.Is(err, errSlow) {
		t.Errorf("who never reads is kept: %v", err)
	}
}

// Frames come in pieces, several at once, and with no commands in them.
func TestAFrontExecutesWhatItIsGiven(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	f := &front{logger: stream{fd: pair[0]}, heard: newInbound(maxRun), table: make(table)}
	defer f.logger.close()
	var all []byte
	for i := range 10 {
		begin := len(all)
		all = append(all, make([]byte, headerSize)...)
		for at := range i {
			all = append(all, set(fmt.Sprintf("key:%d", at), fmt.Sprintf("value %d", i))+get("x")...)
		}
		header(all[begin:]).set(len(all)-begin, uint64(i), 0)
	}
	for piece := all; len(piece) > 0; {
		n := min(100, len(piece))
		if _, err := unix.Write(pair[1], piece[:n]); err != nil {
			t.Fatal(err)
		}
		if err := f.digest(); err != nil {
			t.Fatal(err)
		}
		piece = piece[n:]
	}
	if len(f.table) != 9 || string(f.table["key:0"]) != "value 9" || string(f.table["key:8"]) != "value 9" || f.heard.end != 0 {
		t.Errorf("%d keys, %q, %d bytes are left", len(f.table), f.table["key:0"], f.heard.end)
	}
	if _, err := unix.Write(pair[1], make([]byte, headerSize)); err != nil {
		t.Fatal(err)
	}
	if err := f.digest(); err == nil {
		t.Error("a frame of no size is taken")
	}
}

func TestCommands(t *testing.T) {
	whole := set("key", "value\r\n*") + get("key") + set("empty", "")
	for cut := range len(whole) {
		rest, count := []byte(whole[:cut]), 0
		for {
			c, err := parse(rest)
			if err != nil {
				t.Fatalf("%q: %v", rest, err)
			}
			if c.size == 0 {
				break
			}
			want := [][2]string{{"key", "value\r\n*"}, {"key", ""}, {"empty", ""}}[count]
			if string(c.key) != want[0] || string(c.value) != want[1] || (c.value == nil) != (count == 1) {
				t.Fatalf("command %d is %q %q", count, c.key, c.value)
			}
			rest = rest[c.size:]
			count++
		}
	}
	for _, bad := range []string{"PING\r\n", "*1\r\n$4\r\nPING\r\n", "*4\r\n", "*2\r\n$3\r\nSET\r\n$1\r\na\r\n", "*3\r\n$3\r\nGET\r\n$1\r\na\r\n$1\r\nb\r\n", "*\r\n", "*2\r\n$-1\r\n", "*2\r\n:1\r\n", "*2\r\n$999999999999\r\n"} {
		if c, err := parse([]byte(bad)); err == nil {
			t.Errorf("%q is taken for %q %q", bad, c.key, c.value)
		}
	}
}

// A client that sends what is not known is told so and cut off; others stay.
func TestUnknownCommandsEndTheConnection(t *testing.T) {
	s := start(t, Options{Sync: SyncOS})
	stays := connect(t, s)
	for _, wrong := range []string{"*1\r\n$4\r\nPING\r\n", set("key", strings.Repeat("x", maxPart+1))} {
		u := connect(t, s)
		u.send(t, get("key")+wrong)
		_ = u.SetReadDeadline(time.Now().Add(patience))
		said, _ := io.ReadAll(u.reader) // the end may be an error: not all that it sent was read
		if want := string(replyFixed) + "-ERR \"only GET and SET"; !strings.HasPrefix(string(said), want) {
			t.Errorf("it is told %q, want %q", said, want)
		}
	}
	stays.send(t, set("key", strings.Repeat("x", maxPart))+get("key"))
	stays.expect(t, "+OK\r\n"+string(replyFixed))
}

func TestWrongConfigurations(t *testing.T) {
	right := Config{Kind: KindLogger, Node: "n1", Sync: SyncOS, Flights: 1, Peers: []int{1, 2}}
	if err := right.Validate(); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*Config){
		"kind":    func(c *Config) { c.Kind = "kvnode" },
		"sync":    func(c *Config) { c.Sync = "interval" },
		"flights": func(c *Config) { c.Flights = MaxFlights + 1 },
		"name":    func(c *Config) { c.Node = "" },
		"peers":   func(c *Config) { c.Peers = []int{1} },
		"full":    func(c *Config) { c.Follows = true },
	} {
		c := right
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	t.Setenv(asPart, "1")
	if _, err := Start(context.Background(), Options{Program: []string{os.Args[0]}, Dir: t.TempDir(), Sync: "never", Flights: 1}); err == nil || !strings.Contains(err.Error(), `sync "never"`) {
		t.Errorf("what a process says before it ends is not told: %v", err)
	}
}
