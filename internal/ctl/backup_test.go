package ctl

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"lockstep/internal/archive"
	"lockstep/internal/backup"
	"lockstep/internal/checkpoint"
	"lockstep/internal/kv"
	"lockstep/internal/local"
	"lockstep/internal/rdb"
	"lockstep/internal/resp"
	"lockstep/log"
	"lockstep/smr"
)

// past is a little group: an image of it, and a log of which everything is archived.
type past struct {
	dir, archive, image string
	backup, end         smr.LSN
}

type stillState struct{ m *kv.Machine }

func (s stillState) Between(use func(*kv.Machine)) { use(s.m) }
func (s stillState) Beside(use func(*kv.Machine))  { use(s.m) }

// makePast executes lines, takes a backup of it, and archives further lines.
func makePast(t *testing.T, before, after []string) past {
	t.Helper()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	p := past{dir: t.TempDir()}
	p.archive = filepath.Join(p.dir, "archive")
	check(os.Mkdir(p.archive, 0o755))
	store, err := archive.OpenDir(p.archive)
	check(err)
	l, _, err := log.Open(log.Options{Dir: filepath.Join(p.dir, "log"), Cluster: "c1", Group: "g1", FileSize: 64 << 10})
	check(err)
	defer l.Close()
	m := kv.New()
	sequence, stamp := uint64(0), int64(1_700_000_000_000)
	raw := smr.AppendFrame(nil, smr.Frame{Epoch: 1, Stamp: stamp, Kind: smr.KindEpochStart, Body: smr.AppendConfig(nil, smr.Config{
		Epoch: 1, Reign: 1, Master: "n1", Copies: 1, Members: []smr.Member{{Node: "n1", Incarnation: 5}},
	})})
	check(l.Append(raw))
	m.Advance(stamp, l.End())
	run := func(lines []string) {
		for _, line := range lines {
			var args [][]byte
			for _, word := range strings.Fields(line) {
				args = append(args, []byte(word))
			}
			sequence++
			stamp += 1000
			request := smr.Request{Session: 1, Sequence: sequence, Payload: kv.AppendCommand(nil, args)}
			at := l.End()
			frame := smr.AppendFrame(nil, smr.Frame{LSN: at, Epoch: 1, Stamp: stamp, Kind: smr.KindRequests, Count: 1, Body: smr.AppendRequest(nil, request)})
			check(l.Append(frame))
			raw = append(raw, frame...)
			m.Apply(kv.Instant{LSN: at, Stamp: stamp}, request, nil)
			m.Advance(stamp, l.End())
		}
	}
	run(before)
	check(l.Sync())
	reader, err := log.OpenReader(nil, filepath.Join(p.dir, "log"))
	check(err)
	defer reader.Close()
	base, err := reader.BaseAt(l.End())
	check(err)
	encoded, err := base.AppendBinary(nil)
	check(err)
	engine, err := checkpoint.Open(checkpoint.Options{Dir: filepath.Join(p.dir, "kv"), Cluster: "c1", Group: "g1", Base: func(smr.LSN) ([]byte, error) { return encoded, nil }})
	check(err)
	manifest, err := engine.Take(context.Background(), stillState{m})
	check(errors.Join(err, engine.Close()))
	p.backup, p.image = manifest.LSN, filepath.Join(engine.Images(), checkpoint.Name(manifest.LSN))
	_, err = backup.Archive{Store: store, Cluster: "c1", Group: "g1"}.Create(context.Background(), backup.Source{Dir: p.image, Label: "before"})
	check(err)
	run(after)
	p.end = l.End()
	_, err = archive.OpenLog(store, "c1", "g1").Append(context.Background(), archive.Content{Bytes: raw, LastStamp: stamp, Frames: 1, Node: "n1"}, true)
	check(err)
	return p
}

// copyWithoutLog returns a copy of the archive that has the images only.
func (p past) copyWithoutLog(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "archive")
	if err := errors.Join(os.CopyFS(dir, os.DirFS(p.archive)), os.RemoveAll(filepath.Join(dir, "c1", "g1", "log"))); err != nil {
		t.Fatal(err)
	}
	return dir
}

// What could go wrong: the commands over an archive show something else than what is in it, or a restored directory is none
// that `smrctl up` takes.
func TestBackupCommands(t *testing.T) {
	t.Parallel()
	p := makePast(t, []string{"set a 1", "set b 1"}, []string{"set a 2", "del b"})
	out, notes, code := run(t, "backup", "list", "--archive", p.archive)
	if code != 0 || !strings.Contains(out, "before") || !strings.Contains(out, fmt.Sprintf("ends at LSN %d", p.end)) {
		t.Errorf("list: %d\n%s%s", code, out, notes)
	}
	out, notes, code = run(t, "backup", "verify", "--archive", p.archive)
	if code != 0 || !strings.Contains(out, fmt.Sprintf("restorable up to LSN %d", p.end)) {
		t.Errorf("verify: %d\n%s%s", code, out, notes)
	}
	if _, notes, code := run(t, "backup", "delete", "--archive", p.archive, fmt.Sprint(p.backup), "7"); code != 1 || !strings.Contains(notes, "no backup of LSN 7") || !strings.Contains(notes, "backup list") {
		t.Errorf("delete of what is not there: %d %s", code, notes)
	}
	if out, _, _ := run(t, "backup", "list", "--archive", p.archive); !strings.Contains(out, fmt.Sprint(p.backup)) {
		t.Errorf("a backup was deleted although another one that was named is not there:\n%s", out)
	}
	if out, notes, code := run(t, "backup", "list", "--archive", p.copyWithoutLog(t)); code != 0 || !strings.Contains(out, "No log is archived") {
		t.Errorf("list without a log: %d\n%s%s", code, out, notes)
	}
	into := filepath.Join(p.dir, "restored")
	for _, test := range []struct {
		says []string
		args []string
	}{
		{[]string{fmt.Sprintf("remove the backup of LSN %d", p.backup), "keep the archived log"}, []string{"backup", "delete", fmt.Sprint(p.backup)}},
		{[]string{fmt.Sprintf("fetch the backup of LSN %d", p.backup), fmt.Sprintf("to its end at LSN %d", p.end), "n1, n2, n3 in " + into}, []string{"restore", "--into", into}},
		{[]string{fmt.Sprintf("up to LSN %d", p.backup)}, []string{"restore", "--into", into, "--to-lsn", fmt.Sprint(p.backup)}},
	} {
		out, notes, code := run(t, append(test.args, "--archive", p.archive, "--dry-run")...)
		if code != 0 {
			t.Errorf("%v: %d\n%s%s", test.args, code, out, notes)
		}
		for _, want := range test.says {
			if !strings.Contains(out, want) {
				t.Errorf("%v does not say %q:\n%s", test.args, want, out)
			}
		}
		if _, err := os.Stat(into); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v made %s: %v", test.args, into, err)
		}
	}
	if _, notes, code := run(t, "restore", "--archive", p.archive, "--into", into, "--to-lsn", "99999999", "--dry-run"); code != 1 || !strings.Contains(notes, "it ends at LSN") {
		t.Errorf("a target behind the archive: %d\n%s", code, notes)
	}
	out, notes, code = run(t, "restore", "--archive", p.archive, "--to-lsn", fmt.Sprint(p.backup), "--into", into, "--replicas", "1", "--confmasters", "1", "--port", "23000")
	if code != 0 || !strings.Contains(out, "2 keys") || !strings.Contains(out, "smrctl up --dir "+into) {
		t.Fatalf("restore: %d\n%s%s", code, out, notes)
	}
	cluster, err := local.Open(into)
	if err != nil || cluster.Plan.Cluster == "c1" || cluster.Plan.Group != "g1" || len(cluster.Plan.Replicas) != 1 {
		t.Errorf("%+v, %v", cluster, err)
	}
	for _, test := range []struct {
		says string
		code int
		args []string
	}{
		{"is not empty", 1, []string{"restore", "--archive", p.archive, "--into", into}},
		{"choose an earlier target", 1, []string{"restore", "--archive", p.archive, "--into", into + "2", "--to-lsn", "99999999"}},
		{"choose a later target", 1, []string{"restore", "--archive", p.archive, "--into", into + "2", "--to-time", "2001-02-03"}},
		{"write it as", 2, []string{"restore", "--archive", p.archive, "--into", into + "2", "--to-time", "yesterday"}},
		{"none of the others can be", 2, []string{"restore", "--archive", p.archive, "--into", into + "2", "--to-time", "2001-02-03", "--to-lsn", "5"}},
		{"mount what should be there", 1, []string{"backup", "list", "--archive", p.archive + "2"}},
		{"is empty: `smrctl backup create`", 1, []string{"backup", "list", "--archive", t.TempDir()}},
		{`holds nothing of cluster "c9"`, 1, []string{"backup", "list", "--archive", p.archive, "--cluster", "c9"}},
		{"is no LSN", 2, []string{"backup", "verify", "--archive", p.archive, "x"}},
		{"no backup of LSN 5", 1, []string{"backup", "delete", "--archive", p.archive, "5"}},
		{"create, list, verify, delete", 2, []string{"backup"}},
		{`required flag(s) "archive"`, 2, []string{"backup", "list"}},
	} {
		_, notes, code := run(t, test.args...)
		if code != test.code || !strings.Contains(notes, test.says) {
			t.Errorf("%v: code %d, want %d and %q:\n%s", test.args, code, test.code, test.says, notes)
		}
	}
	out, notes, code = run(t, "backup", "delete", "--archive", p.archive, fmt.Sprint(p.backup), "-o", "json")
	if code != 0 || !strings.Contains(out, `"log_ranges_removed": 0`) {
		t.Errorf("delete: %d\n%s%s", code, out, notes)
	}
}

// What could go wrong: an export holds another state than its source, overwrites a file, or leaves half of one.
func TestExportOfAnImageAndOfABackup(t *testing.T) {
	t.Parallel()
	p := makePast(t, []string{"set a 1", "rpush list x y"}, []string{"set a 2"})
	file := filepath.Join(p.dir, "out.rdb")
	out, notes, code := run(t, "export", "--image", p.image, "--file", file)
	if code != 0 || !strings.Contains(out, "exported 2 keys as of LSN "+fmt.Sprint(p.backup)) {
		t.Fatalf("%d\n%s%s", code, out, notes)
	}
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	reader, err := rdb.NewReader(in, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if item, err := reader.Next(); err != nil || item.Key == nil {
		t.Errorf("%+v, %v", item, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 { // it holds all data
		t.Errorf("the export can be read by others: %v %v", info, err)
	}
	if _, notes, code := run(t, "export", "--image", p.image, "--file", file); code != 1 || !strings.Contains(notes, "exists already") {
		t.Errorf("twice: %d %s", code, notes)
	}
	out, notes, code = run(t, "export", "--archive", p.archive, "--format", "json", "--file", "-")
	var line rdbLine
	if err := json.Unmarshal([]byte(strings.SplitN(out, "\n", 2)[0]), &line); code != 0 || err != nil || line.Type == "" || strings.Count(out, "\n") != 2 {
		t.Errorf("json: %d, %v\n%s%s", code, err, out, notes)
	}
	out, notes, code = run(t, "export", "--archive", p.archive, "--backup", fmt.Sprint(p.backup), "--format", "resp", "--file", "-")
	if code != 0 || strings.Count(out, "RESTORE") != 2 {
		t.Errorf("resp: %d\n%q%s", code, out, notes)
	}
	for _, args := range [][]string{
		{"export", "--image", p.image}, {"export", "--image", p.image, "--file", "x", "--format", "xml"},
		{"export", "--image", p.image, "--archive", p.archive, "--file", "x"}, {"export", "--backup", "5", "--file", "x"},
	} {
		if _, notes, code := run(t, args...); code != 2 {
			t.Errorf("%v: %d %s", args, code, notes)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(p.dir, ".out.rdb*")); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

type rdbLine struct{ Type string }

// redisNode answers commands from a machine, and refuses some.
func redisNode(t *testing.T) (address string, m *kv.Machine) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m = kv.New()
	var tasks sync.WaitGroup
	tasks.Go(func() {
		lsn, sequence := smr.LSN(0), uint64(0)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			database := 0
			var buffer []byte
			for {
				value, used, err := resp.Decode(buffer)
				if err != nil || used == 0 {
					piece := make([]byte, 64<<10)
					n, err := in.Read(piece)
					if err != nil {
						conn.Close()
						break
					}
					buffer = append(buffer, piece[:n]...)
					continue
				}
				buffer = buffer[used:]
				var args [][]byte
				for _, item := range value.Items {
					args = append(args, []byte(item.Text))
				}
				var reply resp.Reply
				switch {
				case string(args[0]) == "SELECT":
					fmt.Sscan(string(args[1]), &database)
					reply.OK()
				case string(args[1]) == "locked":
					reply.Error("NOAUTH Authentication required.")
				case string(args[1]) == "down":
					reply.Error("NOREPLICAS nobody is there")
				default:
					sequence++
					lsn += 1000
					m.Apply(kv.Instant{LSN: lsn, Stamp: 1_700_000_000_000}, smr.Request{
						Session: 1, Sequence: sequence, Payload: kv.Envelope{Database: database}.AppendCommand(nil, args),
					}, &reply)
				}
				if _, err := conn.Write(reply.Buf); err != nil {
					conn.Close()
					break
				}
			}
		}
	})
	t.Cleanup(func() {
		listener.Close()
		tasks.Wait()
	})
	return listener.Addr().String(), m
}

// What could go wrong: keys are lost on the way, land in another database, or a refusal goes unnoticed.
func TestImportSendsEverything(t *testing.T) {
	t.Parallel()
	address, m := redisNode(t)
	var file bytes.Buffer
	w := rdb.NewWriter(&file)
	payload := kv.AppendDumpFooter(append([]byte{0}, kv.AppendRDBText(nil, []byte("value"))...))
	problem := w.Function([]byte("#!lua name=lib\nredis.register_function('f', function() return 1 end)"))
	const keys = 2500
	for i := range keys {
		problem = errors.Join(problem, w.Key(i*3/keys, fmt.Appendf(nil, "key %d", i), 0, payload))
	}
	problem = errors.Join(problem, w.Key(5, []byte("expired"), 1000, payload), w.Key(5, []byte("later"), 4_000_000_000_000, payload),
		w.Key(5, []byte("broken"), 0, kv.AppendDumpFooter([]byte{2, 0})), w.Close())
	if problem != nil {
		t.Fatal(problem)
	}
	path := filepath.Join(t.TempDir(), "in.rdb")
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	out, notes, code := run(t, "import", path, "--to", address)
	if code != 1 || !strings.Contains(out, fmt.Sprintf("%d keys and 1 libraries imported, 1 had expired, 1 refused", keys+1)) ||
		!strings.Contains(out, `db 5 key "broken": ERR Bad data format`) || !strings.Contains(notes, "1 keys were refused") {
		t.Errorf("%d\n%s%s", code, out, notes)
	}
	if m.DBSize(0)+m.DBSize(1)+m.DBSize(2) != keys || m.DBSize(1) == 0 || m.DBSize(5) != 1 {
		t.Errorf("%d, %d, %d, %d keys", m.DBSize(0), m.DBSize(1), m.DBSize(2), m.DBSize(5))
	}
	out, _, code = run(t, "import", path, "--to", address, "-o", "json")
	var result imported
	if err := json.Unmarshal([]byte(out), &result); err != nil || code != 1 || result.Refused != keys+3 || len(result.Refusals) != refusalsShown {
		t.Errorf("again: %d, %v: %+v", code, err, result.Refused)
	}
	out, notes, _ = run(t, "import", path, "--to", address, "--replace")
	if !strings.Contains(out, fmt.Sprintf("%d keys and 1 libraries imported, 1 had expired, 1 refused", keys+1)) {
		t.Errorf("replaced: %s%s", out, notes)
	}
	if out, notes, code := run(t, "import", path, "--dry-run"); code != 0 || !strings.Contains(out, fmt.Sprintf("%d keys and 1 libraries can be imported unless they exist, 1 had expired, 0 refused", keys+2)) {
		t.Errorf("dry run: %d %s%s", code, out, notes)
	}
	if _, notes, code := run(t, "import", "backup_test.go", "--dry-run"); code != 1 || !strings.Contains(notes, "not a whole RDB file") {
		t.Errorf("no RDB file: %d %s", code, notes)
	}
}

// What could go wrong: the group cannot write, and the import goes on and names a million keys; or it waits for ever.
func TestImportEndsWhenTheGroupCannotWrite(t *testing.T) {
	t.Parallel()
	address, m := redisNode(t)
	var file bytes.Buffer
	w := rdb.NewWriter(&file)
	payload := kv.AppendDumpFooter(append([]byte{0}, kv.AppendRDBText(nil, []byte("value"))...))
	problem := w.Key(0, []byte("down"), 0, payload)
	for i := range 3 * importWindow {
		problem = errors.Join(problem, w.Key(0, fmt.Appendf(nil, "key %d", i), 0, payload))
	}
	if err := errors.Join(problem, w.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "in.rdb")
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, notes, code := run(t, "import", path, "--to", address)
	if code != 1 || !strings.Contains(notes, "NOREPLICAS nobody is there") || !strings.Contains(notes, "may be imported again") || m.DBSize(0) >= 2*importWindow {
		t.Errorf("%d, %d keys\n%s", code, m.DBSize(0), notes)
	}
}

// What could go wrong: a node that wants a password answers each of hundreds of commands with that, and so does the error.
func TestImportWithoutAPasswordSaysSoOnce(t *testing.T) {
	t.Parallel()
	address, _ := redisNode(t)
	var file bytes.Buffer
	w := rdb.NewWriter(&file)
	payload := kv.AppendDumpFooter(append([]byte{0}, kv.AppendRDBText(nil, []byte("value"))...))
	if err := errors.Join(w.Key(0, []byte("locked"), 0, payload), w.Key(1, []byte("locked"), 0, payload), w.Close()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "in.rdb")
	if err := os.WriteFile(path, file.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	_, notes, code := run(t, "import", path, "--to", address)
	if code != 1 || strings.Count(notes, "NOAUTH") != 1 || !strings.Contains(notes, "give --password-file") || !strings.Contains(notes, "nothing was sent") {
		t.Errorf("%d\n%s", code, notes)
	}
}
