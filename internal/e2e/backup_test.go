package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"lockstep/internal/local"
	"lockstep/proto"
)

// applied returns what a KV node has executed: at least every write that it has acknowledged.
func (w *world) applied(t *testing.T, node string) uint64 {
	t.Helper()
	r := w.Plan.Replicas[slices.IndexFunc(w.Plan.Replicas, func(r local.Replica) bool { return r.Node == node })]
	conn, err := grpc.NewClient("passthrough:///"+r.AdminAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	state, err := proto.NewKVNodeClient(conn).State(ctx, &proto.KVStateRequest{Target: &proto.Target{Cluster: w.Plan.Cluster, Node: node}})
	if err != nil {
		t.Fatal(err)
	}
	return state.GetApplied()
}

// awaitArchived waits until the archive reaches beyond an LSN.
func awaitArchived(t *testing.T, archive string, lsn uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("LSN %d is archived", lsn), func() error {
		stdout, stderr, code := smrctl(t, archive, "backup", "list", "--archive", archive, "-o", "json")
		var list struct {
			End uint64 `json:"log_end_lsn"`
		}
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, stderr)
		}
		if err := json.Unmarshal([]byte(stdout), &list); err != nil {
			return err
		}
		if list.End < lsn {
			return fmt.Errorf("the archive ends at %d", list.End)
		}
		return nil
	})
}

// awaitImage waits until KV nodes have archived an image above an LSN by themselves, and returns its LSN.
func awaitImage(t *testing.T, archive string, above uint64) (lsn uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("an image above LSN %d is archived", above), func() error {
		stdout, stderr, code := smrctl(t, archive, "backup", "list", "--archive", archive, "-o", "json")
		var list struct {
			Backups []struct {
				LSN         uint64
				Label, Node string
			}
		}
		if code != 0 {
			return fmt.Errorf("exit code %d: %s", code, stderr)
		}
		if err := json.Unmarshal([]byte(stdout), &list); err != nil {
			return err
		}
		for _, b := range list.Backups {
			if b.LSN > above && b.Label == "by itself" && b.Node != "" {
				lsn = b.LSN
				return nil
			}
		}
		return fmt.Errorf("there are %+v", list.Backups)
	})
	return lsn
}

// A cluster is backed up, written on, and destroyed; it is restored to a moment between, under another id, serves what was
// there then on every node and takes writes. Its keyspace goes through a file and back. What could go wrong: any part of the
// way that an operator walks who wants yesterday back.
func TestYesterdayIsRestored(t *testing.T) {
	t.Parallel()
	root := temporary(t)
	archive := filepath.Join(root, "archive")
	if err := os.Mkdir(archive, 0o755); err != nil {
		t.Fatal(err)
	}
	w := start(t, local.Options{Confmasters: 1, Archive: archive}, map[local.Kind][]string{
		local.KindReplicator: {"--archive-every", "50ms", "--archive-zstd"}, local.KindKVNode: {"--archive-image-every", "2s"},
	})
	c := mustDial(t, w.addr("n1"))
	for i := range 500 {
		c.must(t, "SET", "key:"+strconv.Itoa(i), strings.Repeat("v", i))
	}
	c.must(t, "RPUSH", "list", "a", "b")
	if out := w.operate(t, "checkpoint"); strings.Count(out, "image of LSN") != 3 {
		t.Errorf("checkpoint:\n%s", out)
	}
	first := awaitImage(t, archive, 0) // nobody asks for it
	w.operate(t, "backup", "create", "--archive", archive, "--label", "before")
	awaitImage(t, archive, first)
	c.must(t, "SET", "key:7", "then")
	c.must(t, "RPUSH", "list", "c")
	then := w.applied(t, "n1")
	c.must(t, "SET", "key:7", "later")
	c.must(t, "DEL", "list")
	awaitArchived(t, archive, w.applied(t, "n1"))
	cluster := w.Plan.Cluster
	if _, _, err := w.Stop(); err != nil {
		t.Fatal(err)
	}
	for _, r := range w.Plan.Replicas {
		if err := os.RemoveAll(w.ReplicaDir(r.Node)); err != nil {
			t.Fatal(err)
		}
	}

	out, stderr, code := smrctl(t, root, "backup", "verify", "--archive", archive)
	if code != 0 || !strings.Contains(out, "every file checks") {
		t.Fatalf("verify: %d\n%s%s", code, out, stderr)
	}
	out, stderr, code = smrctl(t, root, "backup", "trim", "--archive", archive, "--keep-images", "1", "--dry-run")
	if code != 0 || !strings.Contains(out, "would be done: remove the backup of LSN") {
		t.Errorf("trim --dry-run: %d\n%s%s", code, out, stderr)
	}
	out, stderr, code = smrctl(t, root, "backup", "trim", "--archive", archive, "--keep-age", "24h")
	if code != 0 || !strings.Contains(out, "removed 0 backups") {
		t.Errorf("trim: %d\n%s%s", code, out, stderr)
	}
	into := filepath.Join(root, "r")
	port := freePort(t, local.Options{Confmasters: 1})
	out, stderr, code = smrctl(t, root, "restore", "--archive", archive, "--to-lsn", strconv.FormatUint(then, 10), "--into", into,
		"--confmasters", "1", "--port", strconv.Itoa(port))
	if code != 0 {
		t.Fatalf("restore: %d\n%s%s", code, out, stderr)
	}
	restored, err := local.Open(into)
	if err != nil || restored.Plan.Cluster == cluster {
		t.Fatalf("%v, cluster %q", err, restored.Plan.Cluster)
	}
	r := run(t, restored)
	for i, node := range []string{"n1", "n2", "n3"} {
		c := mustDial(t, r.addr(node))
		if got := c.must(t, "GET", "key:7"); got.Text != "then" {
			t.Errorf("%s: key:7 is %q", node, got.Text)
		}
		if got := c.must(t, "DBSIZE"); got.Int != int64(501+i) {
			t.Errorf("%s: %d keys", node, got.Int)
		}
		if got := c.must(t, "LRANGE", "list", "0", "-1"); len(got.Items) != 3 {
			t.Errorf("%s: list is %v", node, got.Items)
		}
		c.must(t, "SET", "written-at-"+node, "1")
	}

	file := filepath.Join(root, "all.rdb")
	r.operate(t, "export", "--file", file)
	c = mustDial(t, r.addr("n2"))
	c.must(t, "FLUSHALL")
	if out := r.operate(t, "import", file); !strings.Contains(out, "504 keys and 0 libraries imported") {
		t.Errorf("import: %s", out)
	}
	if got := c.must(t, "GET", "key:499"); len(got.Text) != 499 {
		t.Errorf("key:499 has %d bytes", len(got.Text))
	}
}
