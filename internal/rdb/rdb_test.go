package rdb

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
	"lockstep/smr"
)

var update = flag.Bool("update", false, "write the golden file again")

const stamp = 1_700_000_000_000 // log time of the tests

// machine is a kv.Machine with commands executed on it.
type machine struct {
	*kv.Machine
	t   testing.TB
	lsn smr.LSN
	seq uint64
}

func newMachine(t testing.TB, lines ...string) *machine {
	m := &machine{Machine: kv.New(), t: t}
	for _, line := range lines {
		m.run(0, strings.Fields(line)...)
	}
	return m
}

func (m *machine) run(database int, args ...string) resp.Value {
	m.t.Helper()
	words := make([][]byte, len(args))
	for i, arg := range args {
		words[i] = []byte(arg)
	}
	m.seq++
	m.lsn += 1000
	var reply resp.Reply
	m.Apply(kv.Instant{LSN: m.lsn, Stamp: stamp}, smr.Request{
		Session: 1, Sequence: m.seq, Payload: kv.Envelope{Database: database}.AppendCommand(nil, words),
	}, &reply)
	value, _, err := resp.Decode(reply.Buf)
	if err != nil || value.Kind == '-' {
		m.t.Fatalf("%v: %v %s", args, err, value.Text)
	}
	return value
}

// full returns a machine with something of everything.
func full(t testing.TB) *machine {
	m := newMachine(t,
		"set text hello", "set number 12345", "set negative -7", "set empty-soon x", "set long "+strings.Repeat("abc", 3000),
		"rpush list a b c 1 2 3", "sadd set a b c", "sadd numbers 1 2 300 70000", "hset hash a 1 b two", "zadd zset 1 a 2.5 b -inf c +inf d",
		"pfadd hll a b c d", "setbit bits 1000 1", "geoadd geo 13.361389 38.115556 Palermo",
		"xadd stream 1-1 a 1 b 2", "xadd stream 2-1 a 3", "xadd stream 3-1 c 4", "xgroup create stream group 0", "xreadgroup group group consumer count 2 streams stream >",
		"xack stream group 1-1", "xdel stream 3-1", "xgroup create stream other $ mkstream",
		"pexpire text 100000", "expireat number 4000000000",
	)
	for i := range 700 {
		m.run(3, "rpush", "big-list", fmt.Sprintf("element %d", i))
		m.run(3, "sadd", "big-set", fmt.Sprintf("member %d", i))
		m.run(3, "hset", "big-hash", fmt.Sprintf("field %d", i), fmt.Sprint(i))
		m.run(3, "zadd", "big-zset", fmt.Sprint(float64(i)/4), fmt.Sprintf("member %d", i))
	}
	m.run(15, "set", "bytes\x00\xff\r\n", "\x00\x01\xfe")
	m.run(0, "function", "load", "#!lua name=lib\nredis.register_function('answer', function() return 42 end)")
	return m
}

func export(t testing.TB, m *kv.Machine) []byte {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, Aux{"redis-ver", "7.0.15"}, Aux{"lockstep-lsn", "17"})
	if err := errors.Join(Walk(m, w, nil), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// read returns all items of a file.
func read(in []byte, limit int) (items []Item, err error) {
	r, err := NewReader(bytes.NewReader(in), limit)
	if err != nil {
		return nil, err
	}
	for {
		item, err := r.Next()
		if err == io.EOF {
			return items, nil
		}
		if err != nil {
			return items, err
		}
		items = append(items, item)
	}
}

// load executes what an import sends.
func load(t testing.TB, items []Item) *machine {
	t.Helper()
	m := newMachine(t)
	for _, item := range items {
		if item.Function != nil {
			m.run(0, "function", "load", string(item.Function))
			continue
		}
		var args []string
		for _, arg := range RestoreCommand(item.Key, item.Expire, item.Payload) {
			args = append(args, string(arg))
		}
		m.run(item.Database, args...)
	}
	return m
}

// What could go wrong: a type, an expiry, a database or a function is lost or changed on the way through a file. The state
// that comes back must be exported as the same bytes, key by key.
func TestFileBringsEverythingBack(t *testing.T) {
	t.Parallel()
	m := full(t)
	file := export(t, m.Machine)
	items, err := read(file, 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	keys := 0
	for _, item := range items {
		if item.Refused != "" {
			t.Errorf("key %q refused: %s", item.Key, item.Refused)
		}
		if item.Key != nil {
			keys++
		}
	}
	if want := m.DBSize(0) + m.DBSize(3) + m.DBSize(15); keys != want {
		t.Errorf("%d keys of %d", keys, want)
	}
	again, err := read(export(t, load(t, items).Machine), 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	order := func(a, b Item) int {
		return strings.Compare(fmt.Sprint(a.Database, string(a.Key)), fmt.Sprint(b.Database, string(b.Key)))
	}
	slices.SortFunc(items, order)
	slices.SortFunc(again, order)
	if len(items) != len(again) {
		t.Fatalf("%d items, then %d", len(items), len(again))
	}
	if got, want := sorted(t, load(t, items).Machine), sorted(t, m.Machine); got != want {
		t.Error("another state came back")
	}
	for i, item := range items {
		// Sets and hashes have no order, and a stream is packed anew: they were compared above.
		same := bytes.Equal(item.Payload, again[i].Payload) || item.Type == typeSet || item.Type == typeHash || item.Type == typeStream2
		if !bytes.Equal(item.Key, again[i].Key) || item.Database != again[i].Database || item.Expire != again[i].Expire || item.Type != again[i].Type || !same ||
			!bytes.Equal(item.Function, again[i].Function) {
			t.Errorf("key %q of database %d came back as %q of %d, expiry %d and %d, or with another value", item.Key, item.Database, again[i].Key, again[i].Database, item.Expire, again[i].Expire)
		}
	}
}

// What could go wrong: a later version writes other bytes that Redis does not load. The golden file was loaded by
// redis-server 7.0.15 (TestRedisLoadsTheFile does that again where it is installed).
func TestGoldenFile(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "set text hello", "set number 12345", "rpush list a b 7", "sadd numbers 1 2", "hset hash a 1", "zadd zset 1.5 a", "pexpire list 5000", "xadd stream 1-1 a 1", "xgroup create stream g 0")
	m.run(2, "set", "far", "away")
	got := export(t, m.Machine)
	path := filepath.Join("testdata", "golden.rdb.hex")
	if *update {
		if err := os.WriteFile(path, []byte(hex.Dump(got)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if hex.Dump(got) != string(want) {
		t.Errorf("got\n%s", hex.Dump(got))
	}
}

// What could go wrong: a damaged file is imported in part without a word. Every flipped bit of a file and every cut must
// be noticed, at the latest at its end.
func TestDamagedFileIsNoticed(t *testing.T) {
	t.Parallel()
	file := export(t, newMachine(t, "set text hello", "rpush list a b 7", "zadd zset 1.5 a", "pexpire list 5000", "xadd stream 1-1 a 1").Machine)
	for i := range file {
		if _, err := read(file[:i], 1<<20); !errors.Is(err, ErrFormat) {
			t.Errorf("cut at %d: %v", i, err)
		}
		for bit := range 8 {
			file[i] ^= 1 << bit
			// The checksum of 0 means that there is none: no single flip makes it.
			if _, err := read(file, 1<<20); !errors.Is(err, ErrFormat) {
				t.Errorf("bit %d of byte %d flipped: %v", bit, i, err)
			}
			file[i] ^= 1 << bit
		}
	}
}

// What could go wrong: a value that no command can carry, or of a kind that the group does not have, ends the import or
// takes memory without a bound.
func TestUnusableValuesAreItems(t *testing.T) {
	t.Parallel()
	m := newMachine(t, "set small 1", "set large "+strings.Repeat("x", 5000), "set last 2")
	items, err := read(export(t, m.Machine), 1000)
	if err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for _, item := range items {
		if refused := item.Refused != ""; refused != (string(item.Key) == "large") || refused != (item.Payload == nil) {
			t.Errorf("%q: refused %q, payload of %d bytes", item.Key, item.Refused, len(item.Payload))
		}
	}
	text := func(s string) string { return string(kv.AppendRDBText(nil, []byte(s))) }
	file := "REDIS0012" +
		"\xfa" + text("redis-ver") + text("7.4.0") +
		"\xf7\x01\x02\x02\x05" + text("of a module") + "\x01\x07\x00" + // auxiliary data of a module
		"\xf4\x01\x02\x03" + // a slot's sizes
		"\xfe\x00\xfb\x04\x00" +
		"\x07" + text("module") + "\x81\x00\x00\x00\x00\x00\x00\x00\x09\x02\x05\x03\x00\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x05" + text("x") + "\x00" +
		"\xf8\x05\x18" + text("fields") + "\x00\x00\x00\x00\x00\x00\x00\x00\x01\x07" + text("f") + text("v") +
		"\xf9\x05\xfd\x01\x00\x00\x00\x19" + text("packed fields") + "\x00\x00\x00\x00\x00\x00\x00\x00" + text("listpack") +
		"\xfe\x14\x00" + text("far") + text("away") +
		"\xfe\x00\x00" + text("good") + text("value") +
		"\xff\x00\x00\x00\x00\x00\x00\x00\x00"
	items, err = read([]byte(file), 1000)
	if err != nil || len(items) != 5 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, says := range []string{"module", "fields that expire", "fields that expire", "it is in database 20", ""} {
		if !strings.Contains(items[i].Refused, says) || (items[i].Refused == "") != (says == "") {
			t.Errorf("%q: refused %q, want %q", items[i].Key, items[i].Refused, says)
		}
	}
	if items[2].Expire != 1000 {
		t.Errorf("expiry in seconds: %d", items[2].Expire)
	}
	for name, file := range map[string]string{
		"not at all": "hello world", "newer": "REDIS0099", "unknown type": "REDIS0010\x63" + text("key") + "x", "huge length": "REDIS0010\x00\x81\x7f\xff\xff\xff\xff\xff\xff\xff",
		"huge count": "REDIS0010\x01" + text("k") + "\x81\x7f\xff\xff\xff\xff\xff\xff\xff", "expiry": "REDIS0010\xfc\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		if _, err := read([]byte(file), 1000); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What could go wrong: a file from outside makes the reader panic, run for ever or take memory beyond its limit.
func FuzzReader(f *testing.F) {
	f.Add(export(f, full(f).Machine))
	f.Add([]byte("REDIS0011\xfe\x00\x15\x01k\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Add([]byte("REDIS0003\x03\x01k\x02\x01a\xfd\x01b\x031.5\x09\x01z\x02\x00\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		items, _ := read(in, 1<<10)
		for _, item := range items {
			if len(item.Payload) > 1<<10+10 {
				t.Fatalf("a payload of %d bytes", len(item.Payload))
			}
		}
	})
}

// What could go wrong: what is sent for `redis-cli --pipe` is no sequence of commands, or brings another state.
func TestCommandsBringEverythingBack(t *testing.T) {
	t.Parallel()
	m := full(t)
	var out bytes.Buffer
	c := NewCommands(&out)
	if err := errors.Join(Walk(m.Machine, c, nil), c.Close()); err != nil {
		t.Fatal(err)
	}
	again := newMachine(t)
	database := 0
	for rest := out.Bytes(); len(rest) > 0; {
		value, used, err := resp.Decode(rest)
		if err != nil || used == 0 {
			t.Fatalf("no command: %v", err)
		}
		rest = rest[used:]
		var args []string
		for _, item := range value.Items {
			args = append(args, item.Text)
		}
		if args[0] == "SELECT" {
			fmt.Sscan(args[1], &database)
			continue
		}
		again.run(database, args...)
	}
	if a, b := sorted(t, m.Machine), sorted(t, again.Machine); a != b {
		t.Errorf("another state:\n%.500s\n%.500s", a, b)
	}
}

// sorted returns the state as JSON lines in order.
func sorted(t testing.TB, m *kv.Machine) string {
	t.Helper()
	var out bytes.Buffer
	if err := WriteJSON(m, &out, nil); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// What could go wrong: a value that a disk or a client wrote badly makes the writer write a file that ends in the middle.
func TestWriterRefusesWhatIsNoPayload(t *testing.T) {
	t.Parallel()
	w := NewWriter(io.Discard)
	if err := w.Key(0, []byte("k"), 0, []byte("short")); err == nil {
		t.Error("taken")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	broken := NewWriter(failing{})
	payload := kv.AppendDumpFooter([]byte{0, 1, 'x'})
	for range 100_000 {
		_ = broken.Key(0, []byte("key"), rand.Int64N(5), payload)
	}
	if err := broken.Close(); err == nil {
		t.Error("a full disk is not noticed")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("disk full") }
