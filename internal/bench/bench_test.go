package bench

import (
	"bufio"
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// What could go wrong: percentiles are read off wrong buckets. Random durations are held against their sorted list.
func TestQuantilesAreWithinThreePerCent(t *testing.T) {
	source := rand.New(rand.NewPCG(1, 2))
	var all []time.Duration
	var whole, first, second histogram
	for i := range 100_000 {
		d := time.Duration(source.ExpFloat64() * float64(time.Duration(1)<<uint(source.IntN(30))))
		all = append(all, d)
		whole.add(d)
		[]*histogram{&first, &second}[i%2].add(d)
	}
	first.merge(&second)
	if first != whole {
		t.Error("two halves merged differ from the whole")
	}
	slices.Sort(all)
	for _, q := range []float64{0, 0.01, 0.5, 0.9, 0.99, 0.999} {
		exact := all[int(q*float64(len(all)))]
		got := whole.quantile(q)
		if got > exact || float64(got) < float64(exact)*(1-1.0/32)-1 {
			t.Errorf("quantile %v is %v, exactly %v", q, got, exact)
		}
	}
	if got := new(histogram).quantile(0.5); got != 0 {
		t.Errorf("quantile of nothing is %v", got)
	}
	whole.add(1 << 62) // the longest there is still has a bucket
	whole.add(-1)
}

func TestBucketsAreInOrderAndCoverEverything(t *testing.T) {
	for d := time.Duration(0); d < 1<<20; d++ {
		if b := bucket(d); low(b) > d || low(b+1) <= d {
			t.Fatalf("%d is in bucket %d, which begins at %d and ends at %d", d, b, low(b), low(b+1))
		}
	}
}

func TestMedianOfRounds(t *testing.T) {
	rates := func(values ...float64) (list []sample) {
		for _, v := range values {
			list = append(list, sample{rate: v})
		}
		return list
	}
	if got := medians(rates(5, 1, 3)).Rate; got != 3 {
		t.Errorf("median of three is %v", got)
	}
	if got := medians(rates(4, 1, 3, 2)).Rate; got != 2.5 {
		t.Errorf("median of four is %v", got)
	}
	if got := compare(Figures{Rate: 30}, Figures{Rate: 10}); got.Rate != 3 || got.CPU != 0 {
		t.Errorf("ratio is %+v", got)
	}
}

// What could go wrong: the generator counts replies that are errors, or loses its place in the stream of replies. A server
// that answers everything must be counted exactly, one that answers an error must end the run with it.
func TestLoadCountsWhatIsAnswered(t *testing.T) {
	for _, s := range []scenario{{"set", "SET", 3, 4}, {"get", "GET", 2, 1}} {
		server := startServer(t, "")
		count, h, err := s.run(context.Background(), server.addr, appendCommand(nil, "WAIT", []byte("1"), []byte("0")), 50*time.Millisecond)
		if err != nil || count == 0 || h.total != count {
			t.Errorf("%s: %d operations, %d durations, %v", s.Name, count, h.total, err)
		}
		server = startServer(t, "-READONLY no\r\n")
		if _, _, err = s.run(context.Background(), server.addr, nil, time.Minute); err == nil || !strings.Contains(err.Error(), "READONLY") {
			t.Errorf("%s: error replies end in %v", s.Name, err)
		}
	}
}

type server struct{ addr string }

// startServer answers SET, GET and WAIT, or everything with answer.
func startServer(t *testing.T, answer string) server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(conn, answer)
		}
	}()
	return server{listener.Addr().String()}
}

func serve(conn net.Conn, answer string) {
	defer conn.Close()
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		count, _ := strconv.Atoi(strings.TrimPrefix(lines.Text(), "*"))
		var words []string
		for range 2 * count {
			lines.Scan()
			words = append(words, lines.Text())
		}
		reply := answer
		if reply == "" {
			reply = map[string]string{"SET": "+OK\r\n", "GET": "$3\r\n\r\n\n\r\n", "WAIT": ":1\r\n"}[words[1]]
		}
		if _, err := conn.Write([]byte(reply)); err != nil {
			return
		}
	}
}

func TestRepliesAreSkippedWhole(t *testing.T) {
	r := bufio.NewReader(bytes.NewReader([]byte("$-1\r\n$0\r\n\r\n:5\r\n$4\r\n\r\n\r\n\r\n+OK\r\n*1\r\n")))
	for i := range 5 {
		if err := skipReply(r); err != nil {
			t.Errorf("reply %d: %v", i, err)
		}
	}
	if err := skipReply(r); err == nil {
		t.Error("an array is taken for a reply of this load")
	}
}

// The CPU time of a process that burns some must grow; that of one that does not exist is nothing.
func TestCPUTimeOfProcesses(t *testing.T) {
	before := cpuTime([]int{os.Getpid()})
	sum := uint64(0)
	for begun := time.Now(); time.Since(begun) < 5*time.Second && cpuTime([]int{os.Getpid()}) < before+3*clockTick; sum++ {
	}
	if cpuTime([]int{os.Getpid()}) <= before {
		t.Errorf("no CPU time after counting to %d", sum)
	}
	if got := cpuTime([]int{1 << 30}); got != 0 {
		t.Errorf("nobody has used %v", got)
	}
}
