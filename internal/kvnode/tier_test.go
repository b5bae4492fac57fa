package kvnode

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lockstep/internal/kv"
)

// tierText is the value of a key of TestMemoryStaysNearItsBound.
func tierText(i int) string {
	text := strconv.Itoa(i) + "-"
	return text + strings.Repeat(string(rune('a'+i%26)), 4000-len(text))
}

// What could go wrong: more stays in memory than the bound, a value that left it is lost, old or of another key, or what a node has in memory
// shows. Four times the bound is written to a group of which one node has a bound; then everything is read, there and on a node that started from
// its image.
func TestMemoryStaysNearItsBound(t *testing.T) {
	const bound, keys, each = minTierMemory, 16_000, 40
	dir := t.TempDir()
	g := newFakeGroup(t, 2, nil)
	g.nodes[0].node.config.Images.TierMemory = bound
	k, _ := imaged(t, g.nodes[0], dir)
	c, other := dial(t, g.serve(t, 0)), dial(t, g.serve(t, 1))
	field := func(name string) int64 {
		n, err := strconv.ParseInt(c.infoLine("memory", name), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	most := int64(0)
	for i := 0; i < keys; i += each {
		args := []string{"mset"}
		for j := i; j < i+each; j++ {
			args = append(args, "key"+strconv.Itoa(j), tierText(j))
		}
		if reply := c.ask(args...); reply != "+OK\r\n" {
			t.Fatal(reply)
		}
		most = max(most, resident(k))
	}
	for i := range 3000 { // large objects, too
		c.do(fmt.Sprintf("zadd z%d %d member%d", i%3, i, i))
	}
	if limit := int64(bound / 100 * 110); most > limit {
		t.Errorf("%d bytes were in memory, more than %d", most, limit)
	}
	if most < bound/2 || field("tiering_cold_keys") < keys/2 {
		t.Errorf("at most %d bytes were in memory, %d keys are cold", most, field("tiering_cold_keys"))
	}
	for i := 0; i < keys; i += 7 {
		c.expect("get key"+strconv.Itoa(i), fmt.Sprintf("$4000\r\n%s\r\n", tierText(i)))
		if most = resident(k); most > bound/100*110 {
			t.Fatalf("%d bytes are in memory after reading", most)
		}
	}
	if field("tiering_reads_back") == 0 || field("tiering_taken_back") == 0 || c.infoLine("memory", "tiering_hit_ratio") == "1.0000" {
		t.Errorf("read back %d, taken back %d", field("tiering_reads_back"), field("tiering_taken_back"))
	}
	for _, command := range []string{"memory usage key1", "object encoding key1", "strlen key1", "type z1", "object encoding z1", "memory usage z1", "zcard z1",
		"scan 0 count 100", "randomkey", "dbsize", "object freq key1", "debug digest-value key1 z0"} {
		if command == "randomkey" {
			continue // draws by what was asked of a node before
		}
		if mine, others := c.ask(strings.Fields(command)...), other.ask(strings.Fields(command)...); mine != others {
			t.Errorf("%s: %.200q, by the other node %.200q", command, mine, others)
		}
	}
	c.expect("rename key1 moved", "+OK\r\n")
	c.expect("append key2 more", ":4004\r\n")
	c.expect("expire key3 1000", ":1\r\n")
	if _, err := k.TakeImage(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.expect("append key4 more", ":4004\r\n")
	eventually(t, "both nodes have executed everything", func() bool { return g.nodes[0].node.Applied() == g.nodes[1].node.Applied() })
	digest := digestOf(g.nodes[1].node)
	if digestOf(g.nodes[0].node) != digest {
		t.Fatal("the nodes differ")
	}

	again := t.TempDir()
	if err := os.CopyFS(filepath.Join(again, "images"), os.DirFS(k.Dir())); err != nil {
		t.Fatal(err)
	}
	config := g.nodes[0].node.config
	config.Images.Dir = again
	restarted, machine, err := openImages(config)
	if err != nil || machine == nil {
		t.Fatalf("restored %v: %v", machine, err)
	}
	node := NewNode(config, 999, strings.Repeat("b", 40), g.nodes[1])
	node.keep(restarted, machine)
	defer restarted.close()
	if got := machine.TierStats(); got.Resident > bound || got.Keys < keys/2 {
		t.Errorf("behind a start: %+v", got)
	}
	g.mu.Lock()
	history := g.history
	g.mu.Unlock()
	for _, frame := range history {
		if frame.LSN >= node.Applied() {
			if err := node.ApplyFrame(frame); err != nil {
				t.Fatal(err)
			}
		}
	}
	if digestOf(node) != digest {
		t.Error("the node that started from an image differs")
	}
}

// ask sends one command of any length and returns its reply.
func (c *redisClient) ask(args ...string) string {
	c.t.Helper()
	texts := make([][]byte, len(args))
	for i, arg := range args {
		texts[i] = []byte(arg)
	}
	c.SetDeadline(time.Now().Add(5 * time.Minute)) // the machine may be busy
	if _, err := c.Write(appendCommand(nil, texts)); err != nil {
		c.t.Fatal(err)
	}
	return string(c.next())
}

func resident(k *imageKeeper) (bytes int64) {
	k.Beside(func(m *kv.Machine) { bytes = m.TierStats().Resident })
	return bytes
}

func digestOf(n *Node) [32]byte {
	n.lock.RLock()
	defer n.lock.RUnlock()
	return n.machine.Digest()
}

// What could go wrong: a node whose disk is full holds the log up for ever, or loses values.
func TestBoundIsNoReasonToStop(t *testing.T) {
	g := newFakeGroup(t, 1, nil)
	g.nodes[0].node.config.Images.TierMemory = minTierMemory
	k, _ := imaged(t, g.nodes[0], t.TempDir())
	if err := os.RemoveAll(k.Dir()); err != nil { // so that no image can be named
		t.Fatal(err)
	}
	if err := os.WriteFile(k.Dir(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := dial(t, g.serve(t, 0))
	for i := range 100 {
		if reply := c.ask("set", "key"+strconv.Itoa(i), strings.Repeat("x", 250_000)); reply != "+OK\r\n" {
			t.Fatal(reply)
		}
	}
	for i := range 100 {
		c.expect("strlen key"+strconv.Itoa(i), ":250000\r\n")
	}
	if got := resident(k); got < 100*250_000 {
		t.Errorf("%d bytes are in memory", got)
	}
}
