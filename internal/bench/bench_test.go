package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"lockstep/internal/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What could go wrong: percentiles are read off wrong buckets. Random durations are held against their sorted list.
func TestQuantilesAreWithinOnePerCent(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var whole, first, second Histogram
	for i := range 100_000 {
		d := time.Duration(source.ExpFloat64() * float64(time.Duration(1)<<uint(source.IntN(30))))
		all = append(all, d)
		whole.Add(d, 1)
		[]*Histogram{&first, &second}[i%2].Add(d, 1)
	}
	first.Merge(&second)
	if first != whole {
		t.Error("two halves merged differ from the whole")
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := all[min(int(q*float64(len(all))), len(all)-1)]
		got := whole.Quantile(q)
		if off := float64(got-exact) / float64(exact); off > 0.01 || off < -0.01 {
			t.Errorf("quantile %v is %v, exactly %v", q, got, exact)
		}
	}
	if whole.Max() != all[len(all)-1] || whole.Quantile(0) < all[0] || whole.Count() != uint64(len(all)) {
		t.Errorf("longest %v, count %d; %v, %d", whole.Max(), whole.Count(), all[len(all)-1], len(all))
	}
	sum := time.Duration(0)
	for _, d := range all {
		sum += d
	}
	if whole.Mean() != sum/time.Duration(len(all)) {
		t.Errorf("mean %v", whole.Mean())
	}
	if got := new(Histogram); got.Quantile(0.5) != 0 || got.Mean() != 0 || got.Max() != 0 {
		t.Errorf("quantile of nothing is %v", got.Quantile(0.5))
	}
	whole.Add(1<<62, 1) // the longest there is still has a bucket
	whole.Add(-1, 3)
	if whole.Max() != longest || whole.Quantile(0) != 0 {
		t.Errorf("from %v to %v", whole.Quantile(0), whole.Max())
	}
}

func TestBucketsAreInOrderAndCoverEverything(t *testing.T) {
	for d := time.Duration(0); d < 1<<18; d++ {
		if b := bucket(d); low(b) > d || low(b+1) <= d {
			t.Fatalf("%d is in bucket %d, which begins at %d and ends at %d", d, b, low(b), low(b+1))
		}
	}
	if bucket(longest) != buckets-1 {
		t.Errorf("the last bucket is %d of %d", bucket(longest), buckets)
	}
}

// The quantiles of a slice come from the cells that threads kept of it: they must be those of one histogram.
func TestSlicesOfTwoThreadsAreOne(t *testing.T) {
	source := rand.New(rand.NewPCG(3, 4))
	result := newResult(NewLoad("set"), time.Now())
	var whole Histogram
	for range 2 {
		seen := newRecorder(time.Second)
		seen.begin(0)
		for range 1000 {
			d := time.Duration(source.IntN(1_000_000))
			whole.Add(d, 2)
			seen.answered(500*time.Millisecond, d, 2, 0)
		}
		seen.answered(3500*time.Millisecond, time.Millisecond, 3, 1)
		seen.end(4 * time.Second)
		result.merge(seen)
	}
	result.finish()
	if len(result.Slices) != 4 || result.Operations != 4004 || result.Seconds != 3.5 {
		t.Fatalf("%d slices, %d operations in %v s", len(result.Slices), result.Operations, result.Seconds)
	}
	first := result.Slices[0]
	if first.P50 != micros(whole.Quantile(0.5)) || first.P99 != micros(whole.Quantile(0.99)) || first.Max != micros(whole.Max()) || first.Operations != 4000 {
		t.Errorf("%+v, p50 %v, p99 %v", first, whole.Quantile(0.5), whole.Quantile(0.99))
	}
	if got := result.Slices[1]; got != (Slice{At: 1}) {
		t.Errorf("a slice in which nothing happened is %+v", got)
	}
	if got := result.Slices[3]; got.Operations != 4 || got.Failed != 2 {
		t.Errorf("the last slice is %+v", got)
	}
}

// What could go wrong: replies are cut anywhere by the network, and the parser loses its place, or counts an element of an
// array as a reply.
func TestRepliesEndWhereTheyEnd(t *testing.T) {
	list := []string{
		"+OK\r\n", ":-12\r\n", "-ERR no such thing\r\n", "$-1\r\n", "*-1\r\n", "$0\r\n\r\n", "$4\r\n\r\n\r\n\r\n", "*0\r\n",
		"*3\r\n:1\r\n$2\r\nab\r\n*2\r\n+x\r\n-y\r\n", "*1\r\n*1\r\n*0\r\n", "$" + strconv.Itoa(5000) + "\r\n" + strings.Repeat("\n", 5000) + "\r\n",
	}
	source := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		var stream []byte
		var sent []string
		for range 20 {
			reply := list[source.IntN(len(list))]
			sent = append(sent, reply)
			stream = append(stream, reply...)
		}
		var r replies
		ended := 0
		for len(stream) > 0 {
			n := min(1+source.IntN(40), len(stream))
			piece := stream[:n]
			stream = stream[n:]
			for {
				rest, done, err := r.next(piece)
				if err != nil {
					t.Fatal(err)
				}
				if !done {
					break
				}
				piece = rest
				want := sent[ended]
				if r.kind != want[0] || r.empty != (want == "$-1\r\n" || want == "*-1\r\n") || want == ":-12\r\n" && r.integer != -12 {
					t.Fatalf("reply %d is %c %d %v, was %q", ended, r.kind, r.integer, r.empty, want)
				}
				if want[0] == '-' && string(r.text) != "ERR no such thing" {
					t.Fatalf("error %q", r.text)
				}
				ended++
			}
		}
		if ended != len(sent) {
			t.Fatalf("%d of %d replies have ended", ended, len(sent))
		}
	}
	for _, bad := range []string{"\n", "x\r\n", "$5x\r\n", "$-2\r\n", ":\r\n", "+OK\n", "*99999999999999\r\n", strings.Repeat("+", 80<<10)} {
		var r replies
		if _, _, err := r.next([]byte(bad)); err == nil {
			t.Errorf("%.20q is taken for a reply", bad)
		}
	}
	if errorName([]byte("READONLY You can't")) != "READONLY" || errorName(nil) != "ERR" {
		t.Error("names of errors")
	}
}

func TestMedianOfRounds(t *testing.T) {
	if got := median([]float64{5, 1, 3}); got != 3 {
		t.Errorf("median of three is %v", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four is %v", got)
	}
	if median(nil) != 0 || by(1, 0) != 0 || by(3, 2) != 1.5 {
		t.Error("of nothing, or by nothing")
	}
}

// server is a tiny Redis in this process. answer gives the reply to a command; nil closes the connection.
type server struct {
	addr string
	mu   sync.Mutex
	seen map[string]int // commands by name
	last map[string][]string
}

func startServer(t *testing.T, answer func(words []string) []byte) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{addr: listener.Addr().String(), seen: make(map[string]int), last: make(map[string][]string)}
	var wait sync.WaitGroup
	var conns sync.Map
	t.Cleanup(func() {
		listener.Close()
		conns.Range(func(conn, _ any) bool { conn.(net.Conn).Close(); return true })
		wait.Wait()
	})
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conns.Store(conn, true)
			wait.Go(func() { s.serve(conn, answer) })
		}
	})
	return s
}

func (s *server) serve(conn net.Conn, answer func([]string) []byte) {
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for {
		words, err := readCommand(reader)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.seen[words[0]]++
		s.last[words[0]] = words
		s.mu.Unlock()
		reply := answer(words)
		if reply == nil {
			return
		}
		if _, err := conn.Write(reply); err != nil {
			return
		}
	}
}

func readCommand(r *bufio.Reader) ([]string, error) {
	line := func(mark byte) (int, error) {
		text, err := r.ReadString('\n')
		if err != nil || text[0] != mark {
			return 0, fmt.Errorf("%q: %v", text, err)
		}
		return strconv.Atoi(strings.TrimSpace(text[1:]))
	}
	count, err := line('*')
	var words []string
	for range count {
		size, err := line('$')
		if err != nil {
			return nil, err
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(r, word); err != nil {
			return nil, err
		}
		words = append(words, string(word[:size]))
	}
	return words, err
}

// answers is what a Redis says to the loads.
func answers(words []string) []byte {
	switch words[0] {
	case "SET", "MSET", "AUTH":
		return []byte("+OK\r\n")
	case "GET":
		return []byte("$3\r\nabc\r\n")
	case "LRANGE":
		return []byte("*2\r\n$1\r\na\r\n$1\r\nb\r\n")
	}
	return []byte(":1\r\n")
}

// short is a load that ends after a number of operations.
func short(command string, operations uint64) Load {
	l := NewLoad(command)
	l.Connections, l.Operations, l.Warmup, l.Time = 5, operations, 0, time.Minute
	return l
}

// What could go wrong: a load sends what is no command, or counts other than what was answered. A server that understands
// every command must have seen just as many as the generator counts.
func TestLoadsSendCommandsAndCountReplies(t *testing.T) {
	for _, command := range Commands {
		for _, pipeline := range []int{1, 7} {
			for _, threads := range []int{1, 3} {
				s := startServer(t, answers)
				l := short(command, 211)
				l.Pipeline, l.Threads, l.ValueSize = pipeline, threads, 100
				result, err := l.Run(context.Background(), Target{Addrs: []string{s.addr}}, nil)
				if err != nil {
					t.Fatal(err)
				}
				s.mu.Lock()
				total := 0
				for name, count := range s.seen {
					if command != "mix" && name != strings.ToUpper(command) {
						t.Errorf("%s sends %s", command, name)
					}
					total += count
				}
				s.mu.Unlock()
				if total != 211 || result.Operations != 211 || result.whole.Count() != 211 || result.Failed() != 0 {
					t.Errorf("%s, pipeline %d: server %d, operations %d, durations %d, failed %d", command, pipeline, total, result.Operations, result.whole.Count(), result.Failed())
				}
			}
		}
	}
}

func TestArgumentsOfLoads(t *testing.T) {
	value := benchValue(16)
	want := map[string]string{
		"set": "SET b:str:0000000000 " + value, "get": "GET b:str:0000000000", "incr": "INCR b:cnt:0000000000", "lpush": "LPUSH b:lst:0000000000 " + value,
		"lrange": "LRANGE b:rng:0000000000 0 99", "mset": "MSET" + strings.Repeat(" b:str:0000000000 "+value, 10),
	}
	for _, command := range append(slices.Clone(Commands), fillLists) {
		l := NewLoad(command)
		l.Spread, l.ValueSize = "one", 16
		request, count, closed := newSource(l, []byte("closing"), 0).append(nil, 1)
		reader := bufio.NewReader(strings.NewReader(strings.TrimSuffix(string(request), "closing")))
		words, err := readCommand(reader)
		if err != nil {
			t.Errorf("%s: %v", command, err)
		}
		if want[command] != "" && strings.Join(words, " ") != want[command] {
			t.Errorf("%s is %q", command, words)
		}
		reads := slices.Contains([]string{"get", "lrange"}, command) || command == "mix" && words[0] == "GET"
		if closed == reads {
			t.Errorf("%s: closing command %v", command, closed)
		}
		if command == fillLists {
			second, err := readCommand(reader)
			if err != nil || len(second) != 2+listLength || second[1] != words[1] || second[0] != "RPUSH" || count != 3 {
				t.Errorf("lists are filled by %q, %d replies, %v", second, count, err)
			}
		}
	}
}

// Every key once: what filling relies on, with any number of threads.
func TestSequenceTakesEveryKeyOnce(t *testing.T) {
	l := NewLoad("incr")
	l.Spread, l.Keys, l.Threads = "sequence", 100, 3
	seen := make(map[uint64]int)
	for thread := range l.Threads {
		s := newSource(l, nil, thread)
		for range (100 + l.Threads - 1 - thread) / l.Threads {
			seen[s.key()]++
		}
	}
	if len(seen) != 100 {
		t.Errorf("%d keys", len(seen))
	}
	for _, spread := range Spreads {
		l.Spread = spread
		s := newSource(l, nil, 0)
		for range 1000 {
			if key := s.key(); key >= 100 {
				t.Errorf("%s draws key %d of 100", spread, key)
			}
		}
	}
}

// What could go wrong: errors end the run, are not counted, or are counted as operations.
func TestErrorsAreCountedByName(t *testing.T) {
	var mu sync.Mutex
	count := 0
	s := startServer(t, func(words []string) []byte {
		mu.Lock()
		defer mu.Unlock()
		switch count++; {
		case count%10 == 0:
			return []byte("-READONLY no\r\n")
		case count%10 == 5:
			return []byte("$-1\r\n")
		}
		return answers(words)
	})
	result, err := short("get", 100).Run(context.Background(), Target{Addrs: []string{s.addr}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Operations != 90 || result.Errors["READONLY"] != 10 || result.Examples["READONLY"] != "READONLY no" || result.Empty != 10 {
		t.Errorf("%d operations, errors %v %v, empty %d", result.Operations, result.Errors, result.Examples, result.Empty)
	}
	s = startServer(t, func([]string) []byte { return []byte("-READONLY no\r\n") })
	if _, err := short("get", 100).Run(context.Background(), Target{Addrs: []string{s.addr}}, nil); err == nil || !strings.Contains(err.Error(), "READONLY") {
		t.Errorf("only errors: %v", err)
	}
}

// A closing command whose answer counts nobody makes the pipeline before it fail.
func TestClosingCommandMustCountSomebody(t *testing.T) {
	closing := appendCommand(nil, "WAIT", []byte("1"), []byte("0"))
	for want, copies := range map[uint64]string{40: ":1\r\n", 0: ":0\r\n"} {
		s := startServer(t, func(words []string) []byte {
			if words[0] == "WAIT" {
				return []byte(copies)
			}
			return answers(words)
		})
		l := short("set", 40)
		l.Pipeline = 4
		result, err := l.Run(context.Background(), Target{Addrs: []string{s.addr}, Closing: closing}, nil)
		if want == 0 && err == nil || want > 0 && (err != nil || result.Operations != want) {
			t.Errorf("WAIT answers %q: %v %v", copies, result, err)
		}
	}
}

// What could go wrong: a connection that is lost takes its share of the load with it for good.
func TestLostConnectionsAreMadeAgain(t *testing.T) {
	var mu sync.Mutex
	count := 0
	s := startServer(t, func(words []string) []byte {
		mu.Lock()
		defer mu.Unlock()
		if count++; count <= 5 {
			return nil // every first connection is closed at its first request
		}
		return answers(words)
	})
	result, err := short("set", 200).Run(context.Background(), Target{Addrs: []string{s.addr}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if result.Operations != 195 || result.Errors["connection lost"] != 5 {
		t.Errorf("%d operations, errors %v %v", result.Operations, result.Errors, result.Examples)
	}
}

// Coordinated omission: a server that answers nothing must show in an open loop as every operation that was due, each at
// least as long as it waited, and not as the few that were sent.
func TestOpenLoopCountsWhatWasDue(t *testing.T) {
	release := make(chan struct{})
	var mu sync.Mutex
	count := 0
	s := startServer(t, func(words []string) []byte {
		mu.Lock()
		count++
		stuck := count > 1
		mu.Unlock()
		if stuck {
			<-release
		}
		return answers(words)
	})
	t.Cleanup(func() { close(release) }) // the server is stopped after this
	l := NewLoad("set")
	l.Connections, l.Rate, l.Warmup, l.Time, l.Patience = 2, 1000, 0, 200*time.Millisecond, 1500*time.Millisecond
	result, err := l.Run(context.Background(), Target{Addrs: []string{s.addr}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if total := result.whole.Count(); total != 200 || result.Operations != 1 || result.Failed() != 199 || result.Errors["not sent"] == 0 {
		t.Errorf("%d durations, %d operations, %v", total, result.Operations, result.Errors)
	}
	if shortest := result.whole.Quantile(0.05); shortest < 90*time.Millisecond {
		t.Errorf("one that was never answered counts as %v", shortest)
	}
}

func TestOpenLoopSendsAllThatIsDue(t *testing.T) {
	s := startServer(t, answers)
	for _, threads := range []int{1, 2} {
		l := NewLoad("incr")
		l.Connections, l.Pipeline, l.Threads, l.Rate, l.Warmup, l.Time = 4, 5, threads, 2000, 0, 100*time.Millisecond
		result, err := l.Run(context.Background(), Target{Addrs: []string{s.addr}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if result.Operations != 200 || result.Failed() != 0 {
			t.Errorf("%d operations of 200, %v", result.Operations, result.Errors)
		}
	}
}

func TestAuthentication(t *testing.T) {
	s := startServer(t, func(words []string) []byte {
		if words[0] == "AUTH" && words[len(words)-1] != "secret" {
			return []byte("-WRONGPASS no\r\n")
		}
		return answers(words)
	})
	ctx := context.Background()
	if _, err := short("set", 10).Run(ctx, Target{Addrs: []string{s.addr}, Login: admin.Login{User: "me", Password: "secret"}}, nil); err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	if got := strings.Join(s.last["AUTH"], " "); got != "AUTH me secret" || s.seen["AUTH"] != 5 {
		t.Errorf("%q, %d times", got, s.seen["AUTH"])
	}
	s.mu.Unlock()
	if _, err := short("set", 10).Run(ctx, Target{Addrs: []string{s.addr}, Login: admin.Login{Password: "other"}}, nil); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestLoadsThatCannotBeHad(t *testing.T) {
	good := NewLoad("set")
	if err := good.Check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*Load){
		"load":        func(l *Load) { l.Command = "flushall" },
		"spread":      func(l *Load) { l.Spread = "wide" },
		"connections": func(l *Load) { l.Connections = 0 },
		"pipeline":    func(l *Load) { l.Pipeline = 1 << 20 },
		"value size":  func(l *Load) { l.ValueSize = 0 },
		"keys":        func(l *Load) { l.Keys = -1 },
		"reads":       func(l *Load) { l.Reads = 101 },
		"rate":        func(l *Load) { l.Rate = -1 },
		"time":        func(l *Load) { l.Time = 0 },
		"threads":     func(l *Load) { l.Threads = 51 },
	} {
		l := good
		change(&l)
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := l.Run(context.Background(), Target{Addrs: []string{"127.0.0.1:1"}}, nil); err == nil {
			t.Errorf("%s: it runs", name)
		}
	}
	if _, err := good.Run(context.Background(), Target{}, nil); err == nil {
		t.Error("a load goes nowhere")
	}
}

func TestCancelledLoadEnds(t *testing.T) {
	s := startServer(t, answers)
	ctx, cancel := context.WithCancel(context.Background())
	l := NewLoad("set")
	l.Time = time.Hour
	_, err := l.Run(ctx, Target{Addrs: []string{s.addr}}, func(bool) { cancel() })
	if err == nil {
		t.Error("a load that was cancelled has a result")
	}
}

// The processor time of a process that burns some must grow; that of one that does not exist is nothing. The clock of
// another process must agree with what /proc says.
func TestProcessorTimeOfProcesses(t *testing.T) {
	self := os.Getpid()
	before, ticks := cpuTime(self), ticksOf(self)
	sum := uint64(0)
	for begun := time.Now(); time.Since(begun) < time.Minute && ticksOf(self) < ticks+5*clockTick; sum++ {
	}
	grown, grownTicks := cpuTime(self)-before, ticksOf(self)-ticks
	if grown <= 0 || grownTicks < 5*clockTick || grown < grownTicks-3*clockTick {
		t.Errorf("%v by its clock, %v by /proc, after counting to %d", grown, grownTicks, sum)
	}
	if cpuTime(1<<22+1) != 0 || ticksOf(1<<22+1) != 0 {
		t.Error("nobody has used something")
	}
	if residentSize(self) < 1<<20 || procNumber(self, "status", "NoSuchThing") != 0 {
		t.Errorf("this process has %d bytes", residentSize(self))
	}
}
