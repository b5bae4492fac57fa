package local

import (
	"os/exec"
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
		want    string // of each node; -: any
	}{
		{"0 1", 3, "0 1 0"},
		{"4 6", 3, "4 6 4"},
		{"0 1 2", 5, "0 1 2 0 1"},
		{"0 1 2", 3, "- - -"},
		{"0 1 2 3", 3, "- - -"},
		{"0", 3, "- - -"},
		{"0 1", 1, "-"},
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
			if processor, ok := place(allowed, test.nodes, index); ok {
				got = append(got, strconv.Itoa(processor))
			} else {
				got = append(got, "-")
			}
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
	c := &Cluster{Plan: Plan{Confmasters: []Confmaster{{ID: 1}, {ID: 2}, {ID: 3}}, Replicas: []Replica{{Node: "n1"}, {Node: "n2"}, {Node: "n3"}}}}
	allowed := make(map[string]string)
	for _, node := range []string{"n1", "n2", "n3", "c2", "n2"} {
		cmd := exec.Command("grep", "Cpus_allowed_list", "/proc/self/status")
		var out strings.Builder
		cmd.Stdout = &out
		if err := c.startAt(cmd, node); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if was := allowed[node]; was != "" && was != out.String() {
			t.Errorf("%s: first %s, then %s", node, was, out.String())
		}
		allowed[node] = out.String()
	}
	if allowed["c2"] != allowed["n2"] {
		t.Errorf("n2 has %s, its configuration master %s", allowed["n2"], allowed["c2"])
	}
	if shares := before.Count() > 1 && before.Count() < 3; shares != (allowed["n1"] != allowed["n2"]) {
		t.Errorf("%d processors: %v", before.Count(), allowed)
	}
	var after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &after); err != nil || after != before {
		t.Errorf("%v: %v before, %v now", err, before, after)
	}
}
