package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"

	"lockstep/internal/resp"
)

// needs skips the test where a program is not installed: the test installs nothing.
func needs(t *testing.T, program string, probe ...string) {
	t.Helper()
	if path, err := exec.LookPath(program); err != nil {
		t.Skipf("%s is not installed here: %v", program, err)
	} else if len(probe) > 0 {
		if text, err := exec.CommandContext(t.Context(), path, probe...).CombinedOutput(); err != nil {
			t.Skipf("%s %v: %v: %s", program, probe, err, text)
		}
	}
}

// program returns a command of a Redis tool for an address.
func (s *stage) program(name, addr string, args ...string) *exec.Cmd {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	s.whole.Cleanup(cancel)
	return exec.CommandContext(ctx, name, append([]string{"-h", host, "-p", port}, args...)...)
}

// output runs a program to its end and returns what it wrote.
func output(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	text, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", cmd.Args, err, text)
	}
	return string(text)
}

// pipe is a redis-cli --pipe whose input is not complete yet.
type pipe struct {
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   bytes.Buffer
	lines int
}

func (s *stage) pipe(t *testing.T) *pipe {
	t.Helper()
	p := &pipe{cmd: s.program("redis-cli", s.here(), "--pipe", "--pipe-timeout", "0")}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return p
}

// feed writes n commands that append numbers to a list.
func (p *pipe) feed(t *testing.T, key string, n int) {
	t.Helper()
	var text strings.Builder
	for range n {
		p.lines++
		fmt.Fprintf(&text, "RPUSH %s %d\r\n", key, p.lines)
	}
	if _, err := io.WriteString(p.in, text.String()); err != nil {
		t.Fatal(err)
	}
}

// finish ends the input and looks at the list.
func (p *pipe) finish(t *testing.T, s *stage, key string) {
	t.Helper()
	p.in.Close()
	err := p.cmd.Wait()
	if want := fmt.Sprintf("errors: 0, replies: %d", p.lines); err != nil || !strings.Contains(p.out.String(), want) {
		t.Fatalf("--pipe: %v, %q is missing in %s", err, want, p.out.String())
	}
	list, err := numbers(s.there(), key)
	if err != nil || len(list) != p.lines || !slices.IsSorted(list) {
		t.Errorf("the list holds %d of %d numbers: %v, %v", len(list), p.lines, list, err)
	}
}

func tourCLI(t *testing.T, s *stage) func(*testing.T, *stage) {
	needs(t, "redis-cli", "--version")
	p := s.pipe(t)
	p.feed(t, s.key("pipe"), 1000)
	p.finish(t, s, s.key("pipe"))

	cli := func(args ...string) string { t.Helper(); return output(t, s.program("redis-cli", s.here(), args...)) }
	for i := range 20 {
		cli := mustDial(t, s.there())
		cli.must(t, "HSET", s.key("hash"), strconv.Itoa(i), "x")
		cli.must(t, "SET", s.key(fmt.Sprint("scan", i)), "x")
		cli.must(t, "XADD", s.key("stream"), "*", "f", "v")
	}
	for _, c := range []struct {
		args []string
		says []string
	}{
		{[]string{"--bigkeys"}, []string{"-------- summary -------", "Biggest   list found", "Biggest   hash found", "Biggest stream found"}},
		{[]string{"--memkeys"}, []string{"-------- summary -------", "Biggest   list found", " bytes"}},
		{[]string{"-3", "--json", "HGET", s.key("hash"), "1"}, []string{`"x"`}},
		{[]string{"-3", "--csv", "MGET", s.key("scan1"), s.key("none")}, []string{`"x",NULL`}},
		{[]string{"-n", strconv.Itoa(s.db + 6), "DBSIZE"}, []string{"0"}},
		{[]string{"-r", "3", "INCR", s.key("counter")}, []string{"1\n2\n3\n"}},
		{[]string{"HELP", "XADD"}, []string{"summary:\x1b[0m Appends a new entry"}},
		{[]string{"INFO", "server"}, []string{"redis_version:7.2"}},
		{[]string{"COMMAND", "DOCS", "SMR"}, []string{"smr"}},
	} {
		text := cli(c.args...)
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("redis-cli %v does not say %q:\n%s", c.args, want, text)
			}
		}
	}
	found := strings.Fields(cli("--scan", "--pattern", s.key("scan*")))
	if slices.Sort(found); len(slices.Compact(found)) != 20 {
		t.Errorf("--scan finds %v", found)
	}
	// Four numbers, the last one is how often it asked within a second.
	if fields := strings.Fields(cli("--latency", "-i", "1")); len(fields) != 4 || fields[3] == "0" {
		t.Errorf("--latency says %v", fields)
	}
	cmd := s.program("redis-cli", s.here(), "--stat", "-i", "0.05")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines, in := 0, bufio.NewScanner(out); lines < 5 && in.Scan(); {
		if fields := strings.Fields(in.Text()); len(fields) >= 6 && fields[0] != "-------" && fields[0] != "keys" {
			if _, err := strconv.Atoi(fields[0]); err != nil {
				t.Errorf("--stat says %q", in.Text())
			}
			lines++
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	// There is no snapshot to be had: a file that looks like one would be worse than the error.
	for _, args := range [][]string{{"--rdb", "-"}, {"--replica"}} {
		text, err := s.program("redis-cli", s.here(), args...).CombinedOutput()
		if err == nil || !strings.Contains(string(text), "unknown command 'SYNC'") {
			t.Errorf("redis-cli %v: %v\n%s", args, err, text)
		}
	}
	key := s.key("kept")
	kept := s.pipe(t)
	kept.feed(t, key, 1000)
	return func(t *testing.T, s *stage) {
		if s.broken() {
			kept.in.Close()
			kept.cmd.Wait()
			again := s.pipe(t)
			again.feed(t, s.key("again"), 1000)
			again.finish(t, s, s.key("again"))
			return
		}
		kept.feed(t, key, 1000)
		kept.finish(t, s, key)
	}
}

// benchmarks is the default list of redis-benchmark.
var benchmarks = []string{
	"PING_INLINE", "PING_MBULK", "SET", "GET", "INCR", "LPUSH", "RPUSH", "LPOP", "RPOP", "SADD", "HSET", "SPOP", "ZADD", "ZPOPMIN",
	"LPUSH (needed to benchmark LRANGE)", "LRANGE_100 (first 100 elements)", "LRANGE_300 (first 300 elements)",
	"LRANGE_500 (first 500 elements)", "LRANGE_600 (first 600 elements)", "MSET (10 keys)",
}

func tourBenchmark(t *testing.T, s *stage) func(*testing.T, *stage) {
	needs(t, "redis-benchmark", "--version")
	all := func(t *testing.T, args ...string) {
		t.Helper()
		text := output(t, s.program("redis-benchmark", s.here(), append([]string{"-n", "100", "-c", "5", "--csv"}, args...)...))
		for _, name := range benchmarks {
			if !strings.Contains(text, "\n\""+name+"\",") {
				t.Errorf("%s is missing:\n%s", name, text)
			}
		}
	}
	all(t)
	all(t, "-3", "-P", "10", "-r", "50", "-d", "30")
	// It runs while the master dies, and stops at the first error.
	ctx := s.program("redis-benchmark", s.here(), "-n", "1000000", "-c", "1", "-t", "incr", "-q", "-e")
	var text bytes.Buffer
	ctx.Stdout, ctx.Stderr = &text, &text
	if err := ctx.Start(); err != nil {
		t.Fatal(err)
	}
	ended := later(func() (struct{}, error) { return struct{}{}, ctx.Wait() })
	return func(t *testing.T, s *stage) {
		if !s.broken() {
			select {
			case r := <-ended:
				t.Fatalf("redis-benchmark has ended: %v\n%s", r.err, text.String())
			default:
			}
		}
		ctx.Process.Kill()
		<-ended
		all(t)
	}
}

// tourPython runs testdata/tour.py, which stops before and goes on after the fail-over.
func tourPython(t *testing.T, s *stage) func(*testing.T, *stage) {
	needs(t, "/usr/bin/python3", "-c", "import redis")
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	s.whole.Cleanup(cancel)
	args := []string{"testdata/tour.py", s.id, s.here(), s.there(), s.Plan.Group, strconv.Itoa(s.db + 3)}
	for _, c := range s.Plan.Confmasters {
		args = append(args, c.SentinelAddr)
	}
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", args...)
	var problems lockedBuffer
	cmd.Stderr = &problems
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	says := func(t *testing.T, want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			cmd.Wait()
			t.Fatalf("tour.py says %q, not %q:\n%s", lines.Text(), want, problems.String())
		}
	}
	says(t, "before")
	return func(t *testing.T, s *stage) {
		how := "lives"
		if s.broken() {
			how = "died"
		}
		fmt.Fprintln(in, how, s.there())
		says(t, "after")
		if err := cmd.Wait(); err != nil {
			t.Errorf("tour.py: %v\n%s", err, problems.String())
		}
	}
}

// tourTracking is client tracking as old clients use it: in RESP2, a connection of its own is told.
func tourTracking(t *testing.T, s *stage) func(*testing.T, *stage) {
	reader, listener := mustDialFor(t, s, s.here()), mustDialFor(t, s, s.here())
	id := listener.must(t, "CLIENT", "ID").Int
	listener.must(t, "SUBSCRIBE", "__redis__:invalidate")
	reader.must(t, "CLIENT", "TRACKING", "ON", "REDIRECT", strconv.FormatInt(id, 10))
	told := func(t *testing.T, key string) {
		t.Helper()
		for {
			value, err := listener.receive()
			if err != nil || len(value.Items) != 3 || value.Items[0].Text != "message" {
				t.Fatalf("the listener is told %v, %v; want that %s has changed", value, err, key)
			}
			// Another tour's FLUSHDB tells of all keys at once.
			if value.Items[2].Null || slices.ContainsFunc(value.Items[2].Items, func(v resp.Value) bool { return v.Text == key }) {
				return
			}
		}
	}
	change := func(t *testing.T, key string) {
		t.Helper()
		reader.must(t, "GET", s.key(key))
		mustDial(t, s.there()).must(t, "SET", s.key(key), "changed")
		told(t, s.key(key))
		equal(t, "GET", "changed")(text(reader.do("GET", s.key(key))))
	}
	change(t, "a")
	reader.must(t, "GET", s.key("kept"))
	return func(t *testing.T, s *stage) {
		if s.broken() {
			return // both connections are gone, as with Redis
		}
		mustDial(t, s.there()).must(t, "SET", s.key("kept"), "1")
		told(t, s.key("kept"))
		change(t, "b")
	}
}

func text(value resp.Value, err error) (string, error) { return value.Text, err }

// mustDialFor returns a connection that lives through the fail-over.
func mustDialFor(t *testing.T, s *stage, addr string) *conn {
	t.Helper()
	c, err := dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	s.whole.Cleanup(func() { c.Close() })
	return c
}
