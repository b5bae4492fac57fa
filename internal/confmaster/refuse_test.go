package confmaster

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"go.etcd.io/raft/v3/raftpb"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

// usedDir fills a directory with what the first of three configuration masters leaves behind that has run for a moment.
func usedDir(t *testing.T) Config {
	t.Helper()
	config := alone(t, filepath.Join(t.TempDir(), "c1"))
	config.Sentinel = ""
	for id := uint64(2); id <= 3; id++ {
		config.Peers = append(config.Peers, Peer{ID: id, Addr: freeAddr(t)})
	}
	h, err := openHome(&config)
	if err != nil {
		t.Fatal(err)
	}
	defer h.close()
	n, err := newNode(&config, h)
	if err != nil {
		t.Fatal(err)
	}
	for term := uint64(2); term < 40; term++ { // it votes
		hard := &raftpb.HardState{Term: new(term), Vote: new(uint64(2)), Commit: n.store.hard.Commit}
		if err := n.store.save(hard, nil, nil, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.store.close(); err != nil {
		t.Fatal(err)
	}
	return config
}

// changeIdentity edits the identity of a directory as JSON.
func changeIdentity(t *testing.T, config *Config, change func(map[string]any)) {
	t.Helper()
	path := filepath.Join(config.Dir, "identity.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	fields := make(map[string]any)
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	change(fields)
	if text, err = json.Marshal(fields); err != nil {
		t.Fatal(err)
	}
	writeFile(t, path, text)
}

func writeFile(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// changeSnapshot edits the snapshot in a raft store behind the storage's back.
func changeSnapshot(t *testing.T, config *Config, change func(*raftpb.Snapshot)) {
	t.Helper()
	db, err := pebble.Open(filepath.Join(config.Dir, "raft"), &pebble.Options{Logger: pebbleLogger{quietLogger()}})
	if err != nil {
		t.Fatal(err)
	}
	value, closer, err := db.Get(keySnapshot)
	if err != nil {
		t.Fatal(err)
	}
	snapshot := &raftpb.Snapshot{}
	if err := proto.Unmarshal(value, snapshot); err != nil {
		t.Fatal(err)
	}
	closer.Close()
	change(snapshot)
	if value, err = proto.Marshal(snapshot); err != nil {
		t.Fatal(err)
	}
	if err := db.Set(keySnapshot, value, pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// flip changes a byte in the middle of the newest log of the raft store.
func flip(t *testing.T, config *Config) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(config.Dir, "raft", "*.log"))
	if err != nil || len(logs) == 0 {
		t.Fatal(logs, err)
	}
	path := logs[len(logs)-1]
	content, err := os.ReadFile(path)
	if err != nil || len(content) < 100 {
		t.Fatal(len(content), err)
	}
	content[len(content)/2] ^= 1
	writeFile(t, path, content)
}

// What could go wrong: a configuration master takes part with a state that is not its own, is older than what it has
// promised, or cannot be read: it votes twice in a term, and an epoch is given out twice (S1). Or the refusal does not
// say what is wrong with what. Or the refusal itself changes the directory. Every case works on a copy of one directory,
// twice; the untouched one must still open at the end.
func TestDirectoryThatDoesNotFitIsRefused(t *testing.T) {
	defer goleak.VerifyNone(t)
	used := usedDir(t)
	for name, test := range map[string]struct {
		change func(*testing.T, *Config)
		want   []string
	}{
		"other cluster": {func(_ *testing.T, c *Config) { c.Cluster = "other" }, []string{`belongs to cluster "c"`, `"other"`, "--cluster"}},
		"other number":  {func(_ *testing.T, c *Config) { c.ID = 2 }, []string{"belongs to configuration master 1", "not to 2", "--id"}},
		"fewer peers":   {func(_ *testing.T, c *Config) { c.Peers = c.Peers[:1] }, []string{"a cluster of 3", "--peers names 1", "fixed"}},
		"other peers":   {func(_ *testing.T, c *Config) { c.Peers[2].ID = 4 }, []string{"[1 2 3]", "[1 2 4]", "--peers", "fixed"}},
		"newer identity": {func(t *testing.T, c *Config) {
			changeIdentity(t, c, func(fields map[string]any) { fields["version"] = 2 })
		}, []string{"identity.json", "format version 2", "newer program"}},
		"no version": {func(t *testing.T, c *Config) {
			changeIdentity(t, c, func(fields map[string]any) { delete(fields, "version") })
		}, []string{"identity.json", "no version"}},
		"damaged identity": {func(t *testing.T, c *Config) {
			writeFile(t, filepath.Join(c.Dir, "identity.json"), []byte("{"))
		}, []string{"identity.json", "no identity"}},
		"no identity": {func(t *testing.T, c *Config) {
			if err := os.Remove(filepath.Join(c.Dir, "identity.json")); err != nil {
				t.Fatal(err)
			}
		}, []string{`holds "raft"`, "empty --dir"}},
		"newer state": {func(t *testing.T, c *Config) {
			changeSnapshot(t, c, func(s *raftpb.Snapshot) {
				s.Data = []byte(strings.Replace(string(s.Data), `"Version":1`, `"Version":99`, 1))
			})
		}, []string{"state of the cluster", "99"}},
		"state of another cluster": {func(t *testing.T, c *Config) {
			changeSnapshot(t, c, func(s *raftpb.Snapshot) {
				s.Data = []byte(strings.Replace(string(s.Data), `"Cluster":"c"`, `"Cluster":"d"`, 1))
			})
		}, []string{`cluster "d"`, `"c"`}},
		"state that is none": {func(t *testing.T, c *Config) {
			changeSnapshot(t, c, func(s *raftpb.Snapshot) { s.Data = []byte("nonsense") })
		}, []string{"state of the cluster"}},
		"raft store removed": {func(t *testing.T, c *Config) {
			if err := os.RemoveAll(filepath.Join(c.Dir, "raft")); err != nil {
				t.Fatal(err)
			}
		}, []string{"damaged", "it is empty"}},
		"raft log damaged": {flip, []string{"raft store"}},
		"mark damaged": {func(t *testing.T, c *Config) {
			path := filepath.Join(c.Dir, "raft.mark")
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := range content {
				content[i] ^= 0xff
			}
			writeFile(t, path, content)
		}, []string{"raft.mark", "damaged"}},
		"a file": {func(t *testing.T, c *Config) {
			c.Dir = filepath.Join(c.Dir, "identity.json")
		}, []string{"identity.json", "not a directory"}},
	} {
		t.Run(name, func(t *testing.T) {
			config := used
			config.Peers = append([]Peer(nil), used.Peers...)
			config.Dir = filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(config.Dir, os.DirFS(used.Dir)); err != nil {
				t.Fatal(err)
			}
			test.change(t, &config)
			for range 2 {
				err := Run(t.Context(), config)
				if err == nil {
					t.Fatal("it ran")
				}
				for _, want := range append(test.want, config.Dir) {
					if !strings.Contains(err.Error(), want) {
						t.Errorf("%q lacks %q", err, want)
					}
				}
			}
		})
	}
	stop := runs(t, used)
	eventually(t, "the untouched directory", func() error { return reachable(used.self().Addr) })
	stop()
}

// reachable dials addr once.
func reachable(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err == nil {
		err = conn.Close()
	}
	return err
}

// What could go wrong: a port that is taken is reported without saying which flag it comes from, or the directory stays
// locked. Seen by the text, and by a second try that works.
func TestPortInUseIsNamed(t *testing.T) {
	defer goleak.VerifyNone(t)
	config := alone(t, filepath.Join(t.TempDir(), "c1"))
	for _, test := range []struct{ addr, want string }{{config.self().Addr, "--peers"}, {config.Sentinel, "--sentinel"}} {
		taken, err := net.Listen("tcp", test.addr)
		if err != nil {
			t.Fatal(err)
		}
		err = Run(t.Context(), config)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.addr) {
			t.Errorf("%s is taken: %v", test.want, err)
		}
		if err := taken.Close(); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, config) }()
	eventually(t, "Sentinel", func() error { return reachable(config.Sentinel) })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// What could go wrong: a setting that cannot work is taken, and shows only when a master dies; or problems are told one
// at a time.
func TestConfigNamesEveryProblem(t *testing.T) {
	good := func() Config {
		return Config{Dir: "d", Cluster: "c", ID: 1, Peers: []Peer{{1, "h:1"}, {2, "h:2"}, {3, "h:3"}}, Probe: DefaultProbe, Suspect: DefaultSuspect,
			Drop: DefaultDrop, Lower: DefaultLower, Logger: quietLogger(), Sentinel: "127.0.0.1:1"}
	}
	config := good()
	if err := config.Validate(); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"nothing":            {func(c *Config) { *c = Config{} }, []string{"--dir", "--cluster", "--peers", "--id 0", "--probe-ms", "--suspect-ms", "--drop-ms", "--lower-ms", "logger"}},
		"long cluster":       {func(c *Config) { c.Cluster = strings.Repeat("x", 129) }, []string{"--cluster", "129"}},
		"two peers":          {func(c *Config) { c.Peers = c.Peers[:2] }, []string{"1, 3 or 5"}},
		"twice":              {func(c *Config) { c.Peers[1].Addr = "h:1" }, []string{"twice"}},
		"number twice":       {func(c *Config) { c.Peers[1].ID = 3 }, []string{"twice"}},
		"no port":            {func(c *Config) { c.Peers[1].Addr = "h" }, []string{`"h"`}},
		"no host":            {func(c *Config) { c.Peers[1].Addr = ":7301" }, []string{"names no host"}},
		"every host":         {func(c *Config) { c.Peers[1].Addr = "[::]:7301" }, []string{"names no host"}},
		"stranger":           {func(c *Config) { c.ID = 4 }, []string{"--id 4"}},
		"bad sentinel":       {func(c *Config) { c.Sentinel = "nowhere" }, []string{"--sentinel", "nowhere"}},
		"sentinel anywhere":  {func(c *Config) { c.Sentinel = ":26379" }, []string{"--sentinel-announce"}},
		"announced anywhere": {func(c *Config) { c.SentinelAnnounce = "0.0.0.0:1" }, []string{"--sentinel-announce"}},
		"hasty":              {func(c *Config) { c.Probe, c.Suspect = 300*DefaultProbe/100, 500*DefaultProbe/100 }, []string{"two probes"}},
	} {
		config := good()
		test.change(&config)
		err := config.Validate()
		for _, want := range test.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v lacks %q", name, err, want)
			}
		}
	}
	config = good()
	config.Sentinel, config.SentinelAnnounce = ":26379", "redis.example.org:26379"
	if err := config.Validate(); err != nil {
		t.Error(err)
	}
}

// What could go wrong: a mistyped list of peers is understood as another one.
func TestPeersAreRead(t *testing.T) {
	peers, err := ParsePeers("2=b:2, 1=a:1,3=[::1]:3")
	if err != nil || len(peers) != 3 || peers[0] != (Peer{1, "a:1"}) || peers[2] != (Peer{3, "[::1]:3"}) {
		t.Error(peers, err)
	}
	for _, text := range []string{"", "a:1", "0=a:1", "x=a:1", "1=a:1,,2=b:2", "-1=a:1", "99999999999=a:1"} {
		if peers, err := ParsePeers(text); err == nil {
			t.Errorf("%q is read as %v", text, peers)
		}
	}
}
