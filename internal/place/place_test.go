package place

import (
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestNodesShareProcessorsWhereThereAreFewer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		allowed string // processors
		nodes   int
		want    string // of each node's parts; -: any
	}{
		{"0 1", 3, "00 11 01"},
		{"4 6", 3, "44 66 46"},
		{"0 1", 4, "00 11 00 11"},
		{"0 1", 5, "00 11 00 11 01"},
		{"0 1 2", 5, "00 11 22 02 10"},
		{"0 1 2", 7, "00 11 22 00 11 22 01"},
		{"0 1 2", 3, "-- -- --"},
		{"0 1 2 3", 3, "-- -- --"},
		{"0", 3, "-- -- --"},
		{"0 1", 1, "--"},
	} {
		var allowed []int
		for word := range strings.FieldsSeq(test.allowed) {
			processor, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			allowed = append(allowed, processor)
		}
		var got []string
		for index := range test.nodes {
			node := ""
			for _, part := range []Part{First, Second} {
				if processor, ok := of(allowed, test.nodes, index, part); ok {
					node += strconv.Itoa(processor)
				} else {
					node += "-"
				}
			}
			got = append(got, node)
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%d nodes on %s: %v, not %s", test.nodes, test.allowed, got, test.want)
		}
	}
}

// What could go wrong: the processes of a node get different processors, or smrctl itself keeps to that of the node it has started last.
func TestProcessesOfANodeStartOnItsProcessor(t *testing.T) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	allowed := make(map[int]string)
	for _, node := range []int{0, 1, 2, 1} {
		cmd := exec.Command("grep", "Cpus_allowed_list", "/proc/self/status")
		var out strings.Builder
		cmd.Stdout = &out
		if err := Start(cmd, 3, node, First); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if was := allowed[node]; was != "" && was != out.String() {
			t.Errorf("node %d: first %s, then %s", node, was, out.String())
		}
		allowed[node] = out.String()
	}
	if shares := before.Count() > 1 && before.Count() < 3; shares != (allowed[0] != allowed[1]) {
		t.Errorf("%d processors: %v", before.Count(), allowed)
	}
	var after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &after); err != nil || after != before {
		t.Errorf("%v: %v before, %v now", err, before, after)
	}
}

// A goroutine roams over what the environment names, alone, and has afterwards what it had.
func TestGoroutineRoams(t *testing.T) {
	var allowed, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		t.Fatal(err)
	}
	processors := members(&allowed)
	last := processors[len(processors)-1]
	one.Set(last)
	if got := list(members(&one)); got != strconv.Itoa(last) {
		t.Fatalf("processor %d is written %q", last, got)
	}
	for value, want := range map[string]unix.CPUSet{
		list([]int{last}): one, list(processors): allowed, "": allowed, "0,x": allowed, "-1": allowed, "1000000": allowed,
	} {
		t.Setenv(Roaming, value)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			var during, after unix.CPUSet
			back := Roam()
			if err := unix.SchedGetaffinity(0, &during); err != nil || during != want {
				t.Errorf("%q: %v, %v, not %v", value, err, members(&during), members(&want))
			}
			back()
			if err := unix.SchedGetaffinity(0, &after); err != nil || after != allowed {
				t.Errorf("behind %q: %v, %v, not %v", value, err, members(&after), processors)
			}
		}()
		<-ended
	}
}
