package kv

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"lockstep/internal/resp"
	"lockstep/smr"
)

// imageStore keeps rows as internal/checkpoint does, in a map.
type imageStore struct {
	rows           map[string]string
	released, used map[uint64]bool // objects that a key ceased to mention, and those that one mentions
	written        int             // bytes of the rows of the last image
	checked        int

	full   bool     // the image that is taken
	pinned coldRows // from which cold values are read; nil: nobody does
	fronts [2]int   // rows of cold values written and compared
}

func (s *imageStore) take(t testing.TB, rows *ImageRows) {
	t.Helper()
	err := rows.Each(func(op RowOp, key, value []byte) error {
		switch op {
		case RowPut, RowDelete:
			s.written += len(key) + len(value)
			s.release(string(key))
			if delete(s.rows, string(key)); op == RowPut {
				s.rows[string(key)] = string(value)
				if object, ok := RowObject(key, value); ok {
					s.used[object] = true
				}
			}
		case RowDeleteRange:
			for at := range s.rows {
				if at >= string(key) && at < string(value) {
					s.release(at)
					delete(s.rows, at)
				}
			}
		case RowFront:
			s.fronts[0]++
			row, err := JoinRow(nil, value, []byte(s.pinned[string(key)]))
			if err != nil {
				t.Fatalf("row %x: %v", key, err)
			}
			s.release(string(key))
			s.rows[string(key)] = string(row)
			if object, ok := RowObject(key, row); ok {
				s.used[object] = true
				if s.full {
					s.copy(object)
				}
			}
		case RowCheckFront:
			s.fronts[1]++
			held := s.rows[string(key)]
			if row, err := JoinRow(nil, value, []byte(held)); err != nil || string(row) != held {
				t.Fatalf("row %x holds %q, the machine has %q, %v", key, held, row, err)
			}
		case RowCheck:
			s.checked++
			if held := s.rows[string(key)]; held != string(value) {
				t.Fatalf("row %x holds %q, the machine has %q", key, held, value)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rows.Reset()
}

// copy takes the rows of a large object from those that are pinned.
func (s *imageStore) copy(object uint64) {
	from, end := ObjectRows(object)
	for key, value := range s.pinned {
		if key >= string(from) && key < string(end) {
			s.rows[key] = value
		}
	}
}

func (s *imageStore) release(key string) {
	if object, ok := RowObject([]byte(key), []byte(s.rows[key])); ok {
		s.released[object] = true
	}
}

func (s *imageStore) end() {
	for object := range s.released {
		if from, end := ObjectRows(object); !s.used[object] {
			maps.DeleteFunc(s.rows, func(key, _ string) bool { return key >= string(from) && key < string(end) })
		}
	}
}

// load returns a machine made of the rows.
func (s *imageStore) load(t testing.TB) *Machine {
	t.Helper()
	m := strict()
	l := LoadImage(m)
	for _, key := range slices.Sorted(maps.Keys(s.rows)) {
		if err := l.Row([]byte(key), []byte(s.rows[key])); err != nil {
			t.Fatalf("%v: %q", err, s.rows[key])
		}
	}
	if err := l.End(); err != nil {
		t.Fatal(err)
	}
	checkMachine(t, m)
	return m
}

// logged is a request of the log, with the reply it got.
type logged struct {
	at      Instant
	request smr.Request
	end     smr.LSN
	reply   string
}

// imager applies commands to a machine and takes images of it meanwhile.
type imager struct {
	t        testing.TB
	dice     *rand.Rand
	m        *Machine
	lsn      smr.LSN
	stamp    int64
	sequence [3]uint64

	store  imageStore
	taking bool
	full   bool
	start  ImageStart
	digest [32]byte
	rows   ImageRows
	log    []logged // from start on

	also func(logged) // is shown every request behind its execution; nil: nobody is
}

func newImager(t testing.TB, seed uint64) *imager {
	i := &imager{t: t, dice: rand.New(rand.NewPCG(seed, 0)), m: strict(), stamp: 1_700_000_000_000}
	i.store.rows = make(map[string]string)
	return i
}

func (i *imager) submit(payload []byte) {
	session := i.dice.IntN(len(i.sequence))
	i.sequence[session]++
	i.stamp += int64(i.dice.IntN(20))
	entry := logged{
		at:      Instant{LSN: i.lsn, Stamp: i.stamp},
		request: smr.Request{Session: smr.SessionID(session + 1), Sequence: i.sequence[session], Payload: payload},
		end:     i.lsn + smr.LSN(smr.HeaderSize+smr.RequestHeaderSize+len(payload)),
	}
	entry.reply = applyLogged(i.m, entry)
	i.lsn = entry.end
	i.log = append(i.log, entry)
	if i.also != nil {
		i.also(entry)
	}
}

func applyLogged(m *Machine, entry logged) string {
	reply := resp.Reply{Proto: 3}
	m.Apply(entry.at, entry.request, &reply)
	m.Advance(entry.at.Stamp, entry.end)
	return string(reply.Buf)
}

func (i *imager) command(args ...string) {
	i.submit(Envelope{Database: i.dice.IntN(8) / 7}.AppendCommand(nil, bytesOf(args)))
}

func (i *imager) begin() {
	i.start = i.m.BeginImage(i.full)
	i.digest = i.m.Digest()
	if i.log = nil; i.start.Full {
		i.store.rows = make(map[string]string)
	}
	i.store.released, i.store.used = make(map[uint64]bool), make(map[uint64]bool)
	i.store.written, i.store.full = 0, i.start.Full
	i.taking, i.full = true, false
}

// step takes some rows; with the last the image is loaded and compared.
func (i *imager) step(limit int) {
	more := i.m.NextRows(limit, &i.rows)
	i.store.take(i.t, &i.rows)
	if more {
		return
	}
	i.taking = false
	i.store.end()
	i.m.EndImage(true)
	loaded := i.store.load(i.t)
	if loaded.Applied() != i.start.LSN || loaded.Now() != i.start.Stamp || loaded.Digest() != i.digest {
		i.t.Fatalf("image at %d: the loaded machine differs", i.start.LSN)
	}
	for _, entry := range i.log {
		if reply := applyLogged(loaded, entry); reply != entry.reply {
			i.t.Fatalf("behind the image at %d: %q is answered %q, was %q", i.start.LSN, entry.request.Payload, reply, entry.reply)
		}
	}
	if loaded.Digest() != i.m.Digest() {
		i.t.Fatalf("behind the image at %d: states differ", i.start.LSN)
	}
	i.compare(loaded)
	if i.dice.IntN(2) == 0 { // as after a restart
		i.m = loaded
	}
}

// compare asks both machines what no digest tells.
func (i *imager) compare(other *Machine) {
	ask := func(database int, args ...string) (string, string) {
		var replies [2]string
		for n, m := range []*Machine{i.m, other} {
			reply := resp.Reply{Proto: 3}
			m.ReadIn(Envelope{Database: database}, 0, bytesOf(args), &reply)
			replies[n] = string(reply.Buf)
		}
		return replies[0], replies[1]
	}
	questions := [][]string{{"keys", "*"}, {"scan", "0"}, {"scan", "7", "count", "3"}, {"randomkey"}, {"function", "list", "withcode"}}
	for _, key := range imagedKeys {
		questions = append(questions, []string{"object", "encoding", key}, []string{"object", "idletime", key}, []string{"srandmember", key, "5"},
			[]string{"hscan", key, "9"}, []string{"zrange", key, "0", "-1", "withscores"}, []string{"zrandmember", key, "-5"}, []string{"dump", key},
			[]string{"xinfo", "stream", key, "full"}, []string{"pttl", key}, []string{"lrange", key, "0", "-1"})
	}
	for database := range 2 {
		for _, args := range questions {
			if mine, others := ask(database, args...); mine != others {
				i.t.Fatalf("%q in database %d: %q, loaded %q", args, database, mine, others)
			}
		}
	}
}

var imagedKeys = []string{"a", "b", "c", "d", "e{s}", "f{s}", "hash", "set", "zset", "list", "stream", "other"}

// change submits something that changes a lot, or a little of a large collection.
func (i *imager) change() {
	n := func(below int) string { return strconv.Itoa(i.dice.IntN(below)) }
	many := func(args []string, each func() []string) {
		for range i.dice.IntN(400) {
			args = append(args, each()...)
		}
		i.command(args...)
	}
	switch i.dice.IntN(49) {
	case 0:
		many([]string{"hset", "hash", "f", "1"}, func() []string { return []string{"f" + n(2000), n(1e6)} })
	case 1:
		many([]string{"sadd", "set", "1"}, func() []string { return []string{"member" + n(3000)} })
	case 2:
		many([]string{"zadd", "zset", "1", "m"}, func() []string { return []string{n(100), "m" + n(2000)} })
	case 3:
		many([]string{"rpush", "list", "1"}, func() []string { return []string{"element" + n(1e6) + fmt.Sprintf("%0*d", i.dice.IntN(100), 0)} })
	case 4:
		many([]string{"lpush", "list", "1"}, func() []string { return []string{n(1e6)} })
	case 5:
		for range i.dice.IntN(300) {
			i.command("xadd", "stream", "*", "f", n(1e6), "text", fmt.Sprintf("%0*d", i.dice.IntN(60), 0))
		}
	case 6:
		many([]string{"hdel", "hash", "f"}, func() []string { return []string{"f" + n(2000)} })
	case 7:
		many([]string{"srem", "set", "1"}, func() []string { return []string{"member" + n(3000)} })
	case 8:
		many([]string{"zrem", "zset", "m"}, func() []string { return []string{"m" + n(2000)} })
	case 9:
		i.command([]string{"lpop", "rpop"}[i.dice.IntN(2)], "list", n(300))
	case 10:
		i.command("xtrim", "stream", "maxlen", "~", n(3000))
	case 11:
		i.command("xgroup", "create", "stream", "g"+n(2), n(2))
	case 12, 13, 14:
		i.command("xreadgroup", "group", "g"+n(2), "c"+n(3), "count", n(400), "streams", "stream", []string{">", ">", "0"}[i.dice.IntN(3)])
	case 15:
		i.command("xautoclaim", "stream", "g"+n(2), "c"+n(3), "0", "0", "count", n(50))
	case 16:
		i.command("xgroup", "delconsumer", "stream", "g"+n(2), "c"+n(3))
	case 17:
		if i.dice.IntN(4) == 0 {
			i.command("xgroup", "destroy", "stream", "g"+n(2))
		}
	case 18: // acknowledge and delete entries that are there
		reply := resp.Reply{Proto: 2}
		i.m.Read(0, bytesOf([]string{"xrange", "stream", "-", "+", "count", "200"}), &reply)
		v, _, _ := resp.Decode(reply.Buf)
		for _, e := range v.Items {
			if i.dice.IntN(3) == 0 {
				i.command("xack", "stream", "g"+n(2), e.Items[0].Text)
				i.command("xdel", "stream", e.Items[0].Text)
			}
		}
	case 19:
		names := imagedKeys
		i.command("rename", names[i.dice.IntN(len(names))], names[i.dice.IntN(len(names))])
	case 20:
		i.command("rename", []string{"other", "a"}[i.dice.IntN(2)], []string{"hash", "set", "zset", "list", "stream"}[i.dice.IntN(5)])
	case 21:
		i.command("move", imagedKeys[i.dice.IntN(len(imagedKeys))], n(2))
	case 22:
		i.command("copy", imagedKeys[i.dice.IntN(len(imagedKeys))], imagedKeys[i.dice.IntN(len(imagedKeys))], "db", n(2), "replace")
	case 23:
		if i.dice.IntN(6) == 0 {
			i.command([]string{"flushdb", "flushall"}[i.dice.IntN(2)])
		}
	case 24:
		i.command("swapdb", "0", n(2))
	case 25:
		i.command("lset", "list", n(500), n(1e9))
	case 26:
		i.command("linsert", "list", "before", n(100), "inserted")
	case 27:
		i.command("lrem", "list", strconv.Itoa(i.dice.IntN(5)-2), n(100))
	case 28:
		i.command("ltrim", "list", n(300), "-"+n(300))
	case 29:
		i.command("pexpire", imagedKeys[i.dice.IntN(len(imagedKeys))], n(5000))
	case 30:
		i.command("spop", "set", n(20))
	case 31:
		i.command("blpop", "waited"+n(4), "0")
	case 32:
		i.command("rpush", "waited"+n(4), "x", "y")
	case 33:
		i.command("xreadgroup", "group", "g0", "c0", "block", "0", "streams", "stream", ">")
	case 34:
		i.command("eval", "return redis.call('incr', KEYS[1]) -- "+n(5), "1", "a")
	case 35:
		i.command("function", "load", "replace", "#!lua name=lib"+n(3)+"\nredis.register_function('f"+n(1000)+"', function() return "+n(9)+" end)")
	case 36:
		i.submit(Envelope{}.AppendRecord(nil, SettingRecord("hash-max-listpack-entries", n(600))))
	case 37:
		i.submit(Envelope{}.AppendRecord(nil, UserRecord("u"+n(3), []string{"on", ">secret" + n(3), "~key" + n(5), "+get"})))
	case 38:
		i.submit(Envelope{}.AppendRecord(nil, SignRecord("n"+n(2))))
	case 39:
		i.submit(Envelope{}.AppendRecord(nil, RemovalRecord([][]byte{[]byte("u" + n(3))})))
	case 40:
		i.submit(Envelope{}.AppendRecord(nil, SettingRecord("maxmemory", n(300_000), "maxmemory-policy", evictionPolicies[i.dice.IntN(len(evictionPolicies))].name)))
	case 41:
		i.submit(Envelope{}.AppendRecord(nil, SettingRecord("maxmemory", "0")))
	case 42:
		i.command("mset", "s1", n(9), "s2", n(9), "s3", n(9))
	case 43:
		i.command("setex", "t"+n(500), n(3)+"0", n(1e9))
	case 44:
		for range i.dice.IntN(200) {
			i.command("set", "key"+n(2000), n(1e9))
		}
	case 45:
		for range i.dice.IntN(200) {
			i.command("del", "key"+n(2000))
		}
	case 46:
		i.command("zremrangebyrank", "zset", n(50), n(100))
	case 47:
		if i.dice.IntN(4) == 0 {
			i.command("xsetid", "stream", "18000000000000-"+n(3))
		}
	case 48:
		i.submit(Envelope{}.AppendRecord(nil, SettingRecord("stream-node-max-entries", n(12)+"0")))
	}
}

// drawn submits a random command of all that there are.
func (i *imager) drawn() {
	b := make([]byte, 40)
	for at := range b {
		b[at] = byte(i.dice.Uint32())
	}
	args, _ := drawCommand(b)
	i.command(args...)
}

// What could go wrong: a change is not noticed, so that an image holds what was before it; or it is written with a later state; or
// the loaded machine answers the same log otherwise, because something that decides was not written. Images are taken step by step
// while random commands go on, each is loaded, its digest compared with that of its LSN, and the log behind it replayed.
func TestImagesLoadToTheSameMachine(t *testing.T) {
	const seeds = 12
	checked := 0
	for seed := range uint64(seeds) {
		i := newImager(t, seed)
		for round := range 700 {
			if i.dice.IntN(3) == 0 {
				i.drawn()
			} else {
				i.change()
			}
			switch {
			case i.taking && i.dice.IntN(40) == 0 && round > 100: // not stored
				i.m.EndImage(false)
				i.taking = false
			case i.taking:
				i.step(i.dice.IntN(4000))
			case i.dice.IntN(30) == 0:
				i.full = i.dice.IntN(10) == 0
				i.begin()
			}
		}
		for i.taking {
			i.step(1 << 20)
		}
		checked += i.store.checked
	}
	if checked < 150 {
		t.Errorf("%d rows were compared with what an earlier image wrote", checked)
	}
}

// What could go wrong: one way to change a part of a large collection does not mark it, so that the image keeps what was there, or holds
// what came later. Each change is made once before an image is begun, and once behind that.
func TestImageTakesEachChangedPart(t *testing.T) {
	fill := func(i *imager) {
		for n := range 1000 {
			number := strconv.Itoa(n)
			i.command("hset", "hash", "f"+number, number)
			i.command("sadd", "set", "m"+number)
			i.command("zadd", "zset", number, "m"+number)
			i.command("rpush", "list", fmt.Sprintf("%s-%030d", number, n%7))
			i.command("xadd", "stream", number+"-1", "f", number)
		}
		for _, group := range []string{"g", "h"} {
			i.command("xgroup", "create", "stream", group, "0")
			i.command("xreadgroup", "group", group, "c", "count", "500", "streams", "stream", ">")
			i.command("xreadgroup", "group", group, "d", "count", "100", "streams", "stream", ">")
		}
	}
	base := newImager(t, 1)
	base.dice = rand.New(constant{})
	fill(base)
	base.begin()
	for base.taking {
		base.step(1 << 20)
	}
	for _, change := range [][]string{
		{"hset", "hash", "f7", "changed"}, {"hset", "hash", "f7", "8"}, {"hset", "hash", "new", "1"}, {"hdel", "hash", "f999"}, {"hincrby", "hash", "f9", "5"},
		{"hincrbyfloat", "hash", "f9", "5"}, {"sadd", "set", "new"}, {"srem", "set", "m1"}, {"spop", "set", "3"}, {"smove", "set", "other", "m5"},
		{"zadd", "zset", "-5", "m9"}, {"zadd", "zset", "1", "new"}, {"zincrby", "zset", "1.5", "m1"}, {"zrem", "zset", "m1"}, {"zpopmin", "zset"},
		{"zremrangebyrank", "zset", "5", "400"}, {"zremrangebyscore", "zset", "5", "40"},
		{"lpush", "list", "new"}, {"rpush", "list", "new"}, {"lpop", "list"}, {"rpop", "list"}, {"lpop", "list", "300"}, {"lset", "list", "700", "new"},
		{"lset", "list", "700", "700-000000000000000000000000000003"}, {"lset", "list", "700", fmt.Sprintf("%09000d", 1)},
		{"linsert", "list", "before", "700-000000000000000000000000000000", "new"}, {"lrem", "list", "1", "70-000000000000000000000000000000"},
		{"lrem", "list", "-1", "71-000000000000000000000000000001"}, {"ltrim", "list", "10", "-10"}, {"ltrim", "list", "300", "600"}, {"lmove", "list", "list", "left", "right"},
		{"xadd", "stream", "5000-1", "f", "1"}, {"xdel", "stream", "7-1"}, {"xdel", "stream", "999-1"}, {"xtrim", "stream", "maxlen", "700"}, {"xtrim", "stream", "minid", "150"},
		{"xack", "stream", "g", "3-1", "7-1"}, {"xreadgroup", "group", "g", "c", "count", "5", "streams", "stream", ">"}, {"xreadgroup", "group", "g", "c", "count", "5", "streams", "stream", "0"},
		{"xclaim", "stream", "g", "d", "0", "3-1"}, {"xclaim", "stream", "g", "d", "0", "900-1", "force"}, {"xautoclaim", "stream", "g", "d", "0", "0"}, {"xgroup", "delconsumer", "stream", "g", "c"},
		{"xgroup", "destroy", "stream", "g"}, {"xgroup", "create", "stream", "new", "5"}, {"xgroup", "setid", "stream", "g", "5"}, {"xgroup", "createconsumer", "stream", "g", "e"},
		{"rename", "hash", "other"}, {"rename", "stream", "set"}, {"move", "zset", "1"}, {"copy", "list", "other"}, {"set", "list", "text"}, {"del", "set"}, {"flushall"}, {"swapdb", "0", "1"},
		{"expire", "zset", "100"}, {"restore", "set", "0", "wrong"}, {"sort", "set", "alpha", "store", "list"}, {"sunionstore", "set", "set", "other"},
	} {
		for _, behind := range []bool{false, true} {
			i := newImager(t, 1)
			i.dice, i.sequence, i.lsn, i.stamp = base.dice, base.sequence, base.lsn, base.stamp
			i.store.rows = maps.Clone(base.store.rows)
			i.m = i.store.load(t)
			for range 2 {
				if !behind {
					i.command(change...)
				}
				i.begin()
				i.command(change...)
				for i.taking {
					i.step(1 << 20)
				}
			}
			if limit := len(i.store.rows); i.store.written > 64*limit && change[0] != "copy" {
				t.Logf("%q wrote %d bytes", change, i.store.written)
			}
		}
	}
}

// constant is a source of which every number is the same: all commands come from the same session, to database 0.
type constant struct{}

func (constant) Uint64() uint64 { return 0x5555555555555555 }
