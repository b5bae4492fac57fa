package kv

import (
	"bytes"
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"lockstep/internal/steady"

	"lockstep/internal/resp"
	"lockstep/smr"
)

var _ = steady.Draws()

// checkTable reports how a table breaks its invariants.
func checkTable[V any](t rapid.TB, table *table[V]) {
	t.Helper()
	size, bytes, last := 0, 0, uint64(0)
	for i, chunk := range table.order {
		if len(chunk) == 0 || len(chunk) > chunkNodes {
			t.Fatalf("chunk %d has %d nodes", i, len(chunk))
		}
		for _, n := range chunk {
			if n.id <= last || n.id > table.lastID {
				t.Fatalf("node %d follows %d", n.id, last)
			}
			if table.find([]byte(n.key)) != n || table.findText(n.key) != n {
				t.Fatalf("node %q is not found", n.key)
			}
			last = n.id
			size++
			bytes += len(n.key)
		}
		if i > 0 && len(table.order[i-1])+len(chunk) <= chunkNodes/2 && len(table.order) > 1 && i < len(table.order)-1 {
			t.Fatalf("chunks %d and %d should be one: %d and %d nodes", i-1, i, len(table.order[i-1]), len(chunk))
		}
	}
	if size != table.size || bytes != table.bytes {
		t.Fatalf("size %d, bytes %d: counted %d, %d", table.size, table.bytes, size, bytes)
	}
	if table.index != nil {
		checkIndex(t, table.index, size, keyOf[V])
	}
}

// checkRanking reports how a ranking breaks its invariants.
func checkRanking(t rapid.TB, r *ranking) {
	t.Helper()
	if r.root == nil {
		return
	}
	depth := -1
	var leaves []*page
	var walk func(p *page, level int) int
	walk = func(p *page, level int) int {
		if p.pages == nil {
			if depth >= 0 && depth != level || len(p.members) == 0 || len(p.members) > pageSize || p.low != p.members[0] || p.count != len(p.members) {
				t.Fatalf("leaf at depth %d of %d: count %d of %d members", level, depth, p.count, len(p.members))
			}
			depth = level
			leaves = append(leaves, p)
			return p.count
		}
		count := 0
		for _, below := range p.pages {
			count += walk(below, level+1)
		}
		if count != p.count || p.low != p.pages[0].low || len(p.pages) > pageSize || len(p.members) != 0 {
			t.Fatalf("page counts %d, below are %d", p.count, count)
		}
		return count
	}
	walk(r.root, 0)
	var before *member
	for i, leaf := range leaves {
		if i > 0 && (leaf.prev != leaves[i-1] || leaves[i-1].next != leaf) || i == 0 && leaf.prev != nil || i == len(leaves)-1 && leaf.next != nil {
			t.Fatalf("leaf %d of %d is linked wrongly", i, len(leaves))
		}
		for _, m := range leaf.members {
			if before != nil && !memberBefore(before, m) {
				t.Fatalf("%q stands behind %q", m.key, before.key)
			}
			before = m
		}
	}
}

// checkPack reports how a pack breaks its invariants: names are different, the count is right.
func checkPack(t rapid.TB, p pack, count, width int) {
	t.Helper()
	seen := make(map[string]bool)
	for i := 0; i < len(p); {
		name, _, end := p.entry(i, width)
		if seen[string(name)] || p.find(name, width) != i {
			t.Fatalf("%q comes twice in a pack", name)
		}
		seen[string(name)] = true
		i = end
	}
	if len(seen) != count {
		t.Fatalf("pack of %d entries holds %d", count, len(seen))
	}
}

func checkList(t rapid.TB, l *list) {
	t.Helper()
	length, bytes := 0, 0
	var before *listChunk
	for k := l.first; k != nil; before, k = k, k.next {
		if k.prev != before || k.count == 0 || k.count > listChunkItems || k.count > 1 && k.size() > listChunkBytes {
			t.Fatalf("chunk of %d items is linked or filled wrongly", k.count)
		}
		count := 0
		for at := k.start; at < len(k.packed); count++ {
			s, end := k.after(at)
			if same, from := k.before(end); from != at || string(same) != string(s) {
				t.Fatalf("element at %d of a chunk begins at %d, read backwards", at, from)
			}
			bytes += len(s)
			at = end
		}
		if count != k.count {
			t.Fatalf("chunk of %d items holds %d", k.count, count)
		}
		length += count
	}
	if l.last != before || length != l.length || bytes != l.bytes {
		t.Fatalf("list of %d, counted %d; bytes %d, counted %d", l.length, length, l.bytes, bytes)
	}
}

// checkMachine checks the invariants of every structure of the state.
func checkMachine(t rapid.TB, m *Machine) {
	t.Helper()
	used := int64(0)
	for i, d := range &m.databases {
		if d.number != i {
			t.Fatalf("database %d calls itself %d", i, d.number)
		}
		used += checkDatabase(t, d)
	}
	if used != m.used {
		t.Fatalf("the keys take %d bytes, %d are counted", used, m.used)
	}
}

// checkDatabase also returns the sum of the sizes of the keys.
func checkDatabase(t rapid.TB, d *database) (used int64) {
	t.Helper()
	checkKeys(t, &d.keys)
	expires := 0
	d.keys.each(func(e *entry) bool {
		used += e.value.size()
		if e.value.size() != int64(entrySize(e)) {
			t.Fatalf("%q takes %d bytes, %d are counted", e.key(), entrySize(e), e.value.size())
		}
		if e.value.due != 0 {
			expires++
			if d.due.get(int(e.value.due-1)).entry.Pointer() != e {
				t.Fatalf("expiry of %q is not in its place", e.key())
			}
		}
		size := 1
		switch o := e.value.object().(type) {
		case *hashObject:
			if size = o.length(); o.big != nil {
				checkTable(t, &o.big.table)
			} else {
				checkPack(t, o.pack, o.count, 2)
			}
		case *setObject:
			if size = o.length(); o.big != nil {
				checkTable(t, o.big)
			} else {
				checkPack(t, o.pack, o.count, 1)
			}
		case *zsetObject:
			if size = o.length(); o.big != nil {
				checkTable(t, &o.big.table)
				checkRanking(t, &o.big.ranks)
				if size != o.big.ranks.size() {
					t.Fatalf("%q has %d members and %d ranks", e.key(), size, o.big.ranks.size())
				}
			} else {
				checkPack(t, o.pack, o.count, 2)
				var before *ranked
				o.each(func(m ranked) bool {
					if before != nil && !before.before(m) {
						t.Fatalf("%q stands behind %q", m.name, before.name)
					}
					before = &m
					return true
				})
			}
		case *list:
			checkList(t, o)
			size = o.length
		case *stream:
			checkStream(t, o)
		}
		if size == 0 {
			t.Fatalf("%q is an empty %s", e.key(), kindOf(e))
		}
		return true
	})
	if expires != d.due.size {
		t.Fatalf("%d keys expire, %d expiries are kept", expires, d.due.size)
	}
	for i := range d.due.size {
		if i > 0 && d.due.before(i, (i-1)/2) {
			t.Fatalf("expiry %d stands below a later one", i)
		}
	}
	return used
}

// A sorted set against a sorted slice: rank, order, ranges and scores must agree after any changes. A rank that is off
// by one, a page that is lost when pages split and join, or a pack cut in the wrong place would show.
func TestSortedSetIsASortedSlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		z := new(zsetObject)
		var naive []ranked
		position := func(m ranked) int {
			i, _ := slices.BinarySearchFunc(naive, m, func(a, b ranked) int {
				return cmp.Or(cmp.Compare(a.score, b.score), bytes.Compare(a.name, b.name))
			})
			return i
		}
		spread := rapid.SampledFrom([]int{3, 50, 5000}).Draw(t, "spread")
		steps := rapid.IntRange(1, 1500).Draw(t, "steps")
		seed := rapid.Uint64().Draw(t, "seed")
		dice := rand.New(rand.NewPCG(seed, 0))
		shrink := dice.IntN(3)
		scores := []float64{0, 1, -1, 127, -128, 1.5, 65536, -1e9, 1 << 52, -(1 << 53), 1e300, math.Inf(1), math.Inf(-1), 255, 256, -0.25, 3, 4, 5, 6}
		for range steps {
			name := fmt.Appendf(nil, "m%d", dice.IntN(spread))
			score := scores[dice.IntN(len(scores))]
			old, found := z.score(name)
			if found {
				m := ranked{name, old}
				i := position(m)
				if z.rank(m) != i {
					t.Fatalf("rank of %s is %d, not %d", name, z.rank(m), i)
				}
				naive = slices.Delete(naive, i, i+1)
				if dice.IntN(3) <= shrink {
					z.drop(name)
					continue
				}
				z.move(name, score)
			} else {
				z.insertNew(name, score)
			}
			m := ranked{name, score}
			naive = slices.Insert(naive, position(m), m)
		}
		if z.big != nil {
			checkTable(t, &z.big.table)
			checkRanking(t, &z.big.ranks)
		} else {
			checkPack(t, z.pack, z.count, 2)
		}
		show := func(from, end int, reverse bool) string {
			var text strings.Builder
			z.eachRank(from, end, reverse, func(m ranked) bool {
				fmt.Fprintf(&text, "%s %v,", m.name, m.score)
				return true
			})
			return text.String()
		}
		join := func(members []ranked) string {
			var text strings.Builder
			for _, m := range members {
				fmt.Fprintf(&text, "%s %v,", m.name, m.score)
			}
			return text.String()
		}
		if show(0, z.length(), false) != join(naive) {
			t.Fatal("order differs")
		}
		from := dice.IntN(len(naive) + 1)
		end := from + dice.IntN(len(naive)-from+1)
		part := slices.Clone(naive[from:end])
		if show(from, end, false) != join(part) {
			t.Fatalf("range %d..%d differs", from, end)
		}
		slices.Reverse(part)
		if show(from, end, true) != join(part) {
			t.Fatalf("reverse range %d..%d differs", from, end)
		}
		bound := scores[dice.IntN(len(scores))]
		count := 0
		for _, m := range naive {
			if m.score < bound {
				count++
			}
		}
		if got := z.countWhile(func(m ranked) bool { return m.score < bound }); got != count {
			t.Fatalf("%d members below %v, counted %d", got, bound, count)
		}
		z.dropRanks(from, end)
		naive = slices.Delete(naive, from, end)
		if show(0, z.length(), false) != join(naive) {
			t.Fatalf("after the removal of %d..%d", from, end)
		}
	})
}

// A list against a slice.
func TestListIsASlice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := new(list)
		var naive []string
		steps := rapid.IntRange(1, 1200).Draw(t, "steps")
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		bias := dice.IntN(10)
		long := dice.IntN(3) == 0
		for step := range steps {
			s := strconv.Itoa(dice.IntN(8))
			if dice.IntN(10) < bias {
				s = strconv.Itoa(step)
			}
			if long && dice.IntN(6) == 0 {
				s += strings.Repeat("x", []int{250, 253, 254, 255, 256, 3000, 8190, 9000}[dice.IntN(8)])
			}
			switch op := dice.IntN(16); {
			case op < 3:
				l.push(left, []byte(s))
				naive = slices.Insert(naive, 0, s)
			case op < 6:
				l.push(right, []byte(s))
				naive = append(naive, s)
			case op < 9:
				i := dice.IntN(len(naive) + 1)
				l.insert(i, []byte(s))
				naive = slices.Insert(naive, i, s)
			case len(naive) == 0:
			case op == 9:
				if got := l.pop(left); string(got) != naive[0] {
					t.Fatalf("front is %q, not %q", got, naive[0])
				}
				naive = naive[1:]
			case op == 10:
				if got := l.pop(right); string(got) != naive[len(naive)-1] {
					t.Fatalf("back is %q, not %q", got, naive[len(naive)-1])
				}
				naive = naive[:len(naive)-1]
			case op == 11:
				i := dice.IntN(len(naive))
				l.set(i, []byte(s))
				naive[i] = s
			case op == 12 && dice.IntN(20) == 0:
				from := dice.IntN(len(naive))
				end := from + dice.IntN(len(naive)-from+1)
				l.trim(from, end)
				naive = slices.Clone(naive[from:end])
			case op == 13:
				limit, back := dice.IntN(4), dice.IntN(2) == 0
				want := 0
				naive, want = removeNaively(naive, s, limit, back)
				if got := l.removeEqual([]byte(s), limit, back); got != want {
					t.Fatalf("removed %d, not %d", got, want)
				}
			default:
				i := dice.IntN(len(naive))
				if got := l.index(i); string(got) != naive[i] {
					t.Fatalf("element %d is %q, not %q", i, got, naive[i])
				}
			}
		}
		checkList(t, l)
		var all []string
		l.each(0, func(s []byte) bool { all = append(all, string(s)); return true })
		if !slices.Equal(all, naive) {
			t.Fatalf("got %q, want %q", all, naive)
		}
		all = nil
		l.eachBack(func(s []byte) bool { all = append(all, string(s)); return true })
		if slices.Reverse(all); !slices.Equal(all, naive) {
			t.Fatalf("backwards %q, want %q", all, naive)
		}
	})
}

func removeNaively(items []string, s string, limit int, back bool) ([]string, int) {
	items = slices.Clone(items)
	if back {
		slices.Reverse(items)
	}
	removed := 0
	items = slices.DeleteFunc(items, func(item string) bool {
		if item != s || limit > 0 && removed == limit {
			return false
		}
		removed++
		return true
	})
	if back {
		slices.Reverse(items)
	}
	return items, removed
}

// A table against a map and a slice of the order; and its scan, cut into pieces while the table changes.
func TestTableKeepsOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var table table[int]
		var naive []string
		spread := rapid.SampledFrom([]int{5, 20, 3000}).Draw(t, "spread")
		steps := rapid.IntRange(1, 3000).Draw(t, "steps")
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		change := func() {
			key := fmt.Sprintf("k%d", dice.IntN(spread))
			if n := table.find([]byte(key)); n != nil {
				table.remove(n)
				naive = slices.DeleteFunc(naive, func(s string) bool { return s == key })
				return
			}
			table.insert(key, 0)
			naive = append(naive, key)
		}
		for range steps {
			change()
		}
		checkTable(t, &table)
		if !slices.Equal(table.keys(), naive) {
			t.Fatal("order differs")
		}
		before, newest := slices.Clone(naive), table.lastID
		var seen []string
		for cursor, first := uint64(0), true; first || cursor != 0; first = false {
			cursor = table.scan(cursor, 1+dice.IntN(10), func(n *node[int]) { seen = append(seen, n.key) })
			change()
		}
		if len(slices.Compact(slices.Sorted(slices.Values(seen)))) < len(seen) {
			t.Fatalf("some of %q was visited twice", seen)
		}
		for _, key := range before {
			if slices.Contains(naive, key) && !slices.Contains(seen, key) && table.find([]byte(key)).id <= newest {
				t.Fatalf("%s stayed and was not visited", key)
			}
		}
		checkTable(t, &table)
	})
}

// SCAN, HSCAN, SSCAN and ZSCAN while elements come and go between the calls, the oldest ones in runs: whatever is there all the time is returned
// exactly once. A cursor below which nothing is left must end the scan, not visit the oldest chunk once more.
func TestScansReturnWhatStaysOnce(t *testing.T) {
	for _, collection := range []struct {
		scan, add, remove []string // the name of an element is put behind the latter two
		width             int      // replies for each element
	}{
		{[]string{"scan"}, []string{"mset"}, []string{"del"}, 1},
		{[]string{"hscan", "c"}, []string{"hset", "c"}, []string{"hdel", "c"}, 2},
		{[]string{"sscan", "c"}, []string{"sadd", "c"}, []string{"srem", "c"}, 1},
		{[]string{"zscan", "c"}, []string{"zadd", "c", "1"}, []string{"zrem", "c"}, 2},
	} {
		t.Run(collection.scan[0], func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
				size := rapid.SampledFrom([]int{200, 700}).Draw(t, "size")
				r, present, comes := newRunner(), []string(nil), 0
				insert := func() {
					name := fmt.Sprintf("e%d", comes)
					comes++
					args := append(slices.Clone(collection.add), name)
					if width := len(args); width == 2 || args[0] == "hset" {
						args = append(args, "v")
					}
					r.apply(args...)
					present = append(present, name)
				}
				remove := func(i int) {
					r.apply(append(slices.Clone(collection.remove), present[i])...)
					present = slices.Delete(present, i, i+1)
				}
				for range size {
					insert()
				}
				stays, seen := slices.Clone(present), make(map[string]int)
				for cursor := "0"; ; {
					args := append(slices.Clone(collection.scan), cursor, "count", strconv.Itoa(1+dice.IntN(size/8)))
					v, _, err := resp.Decode([]byte(r.apply(args...)))
					if err != nil || len(v.Items) != 2 {
						t.Fatalf("%q gave %+v, %v", args, v, err)
					}
					for i := 0; i < len(v.Items[1].Items); i += collection.width {
						seen[v.Items[1].Items[i].Text]++
					}
					if cursor = v.Items[0].Text; cursor == "0" {
						break
					}
					switch run := dice.IntN(size / 4); dice.IntN(4) {
					case 0:
						for range run {
							insert()
						}
					case 1: // the oldest go
						for range min(run, len(present)-1) {
							remove(0)
						}
					default:
						for range min(run/8, len(present)-1) {
							remove(dice.IntN(len(present)))
						}
					}
				}
				for _, name := range stays {
					if times := seen[name]; times > 1 || times == 0 && slices.Contains(present, name) {
						t.Fatalf("%s of %d elements was returned %d times", name, size, times)
					}
				}
			})
		})
	}
}

// Pools that the arguments of random commands are drawn from.
var (
	drawnKeys   = []string{"a", "b", "c", "d", "e{s}", "f{s}"}
	drawnWords  = []string{"0", "1", "2", "3", "-1", "5", "10", "100", "1.5", "inf", "-inf", "(1", "[a", "(b", "-", "+", "x", "", "m1", "m2", "m3", "9223372036854775807", "-9223372036854775808"}
	drawnOption = []string{"nx", "xx", "gt", "lt", "ch", "incr", "ex", "px", "exat", "keepttl", "get", "withscores", "withvalues", "limit", "rev", "byscore", "bylex", "weights", "aggregate", "sum",
		"count", "match", "*", "left", "right", "before", "after", "replace", "rank", "maxlen", "persist", "async", "encoding"}
)

// drawnCommands are all commands but PFSELFTEST, which takes a long time to find nothing, and has a test of its own.
var drawnCommands = slices.DeleteFunc(Commands(), func(c *Command) bool { return c.Name == "pfselftest" })

// drawCommand reads one command from bytes that a fuzzer chose.
func drawCommand(b []byte) (args []string, rest []byte) {
	next := func(n int) int {
		if len(b) == 0 {
			return 0
		}
		v := int(b[0]) % n
		b = b[1:]
		return v
	}
	list := drawnCommands
	command := list[next(len(list))]
	args = append(args, command.Name)
	count := max(command.Arity, -command.Arity) - 1
	if command.Arity < 0 {
		count += next(5)
	}
	for i := range count {
		switch kind := next(8); {
		case kind < 4 && (i == 0 || kind == 0):
			args = append(args, drawnKeys[next(len(drawnKeys))])
		case kind < 6:
			args = append(args, drawnWords[next(len(drawnWords))])
		default:
			args = append(args, drawnOption[next(len(drawnOption))])
		}
	}
	return args, b
}

// FuzzApply: no sequence of commands may panic or break an invariant, and two machines fed the same log must give the
// same replies and states: one replies and is read in between, the other is a replica that nobody asks.
func FuzzApply(f *testing.F) {
	dice := rand.New(rand.NewPCG(1, 2))
	for range 20 {
		seed := make([]byte, 400)
		for i := range seed {
			seed[i] = byte(dice.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) { applyToTwo(t, b) })
}

func applyToTwo(t rapid.TB, b []byte) {
	first, second := strict(), New()
	lsn, stamp, sequence := smr.LSN(0), int64(1_700_000_000_000), uint64(0)
	for len(b) > 0 {
		args, rest := drawCommand(b)
		step := len(b) - len(rest)
		payload := AppendCommand(nil, bytesOf(args))
		if step%5 == 0 {
			payload = AppendTransaction(nil, []Watch{{Key: []byte("a"), Version: first.Version(0, []byte("a"))}}, [][][]byte{bytesOf(args), bytesOf(args)})
		}
		b = rest
		stamp += int64(step)
		sequence++
		request := smr.Request{Session: 9, Sequence: sequence, Payload: payload}
		replyA, replyB := resp.Reply{Proto: 3}, resp.Reply{Proto: 3}
		first.Apply(Instant{LSN: lsn, Stamp: stamp}, request, &replyA)
		if step%2 == 0 {
			second.Apply(Instant{LSN: lsn, Stamp: stamp}, request, &replyB)
			if string(replyA.Buf) != string(replyB.Buf) {
				t.Fatalf("%q: replies %q and %q", args, replyA.Buf, replyB.Buf)
			}
		} else {
			second.Apply(Instant{LSN: lsn, Stamp: stamp}, request, nil)
		}
		if v, used, err := resp.Decode(replyA.Buf); err != nil || used != len(replyA.Buf) {
			t.Fatalf("%q: reply %q decodes to %+v: %v", args, replyA.Buf, v, err)
		}
		var ignored resp.Reply
		first.Read(0, bytesOf(args), &ignored)
		first.Version(0, []byte("b"))
		lsn += smr.LSN(smr.HeaderSize + smr.RequestHeaderSize + len(payload))
		first.Advance(stamp, lsn)
		second.Advance(stamp, lsn)
	}
	checkMachine(t, first)
	if first.Digest() != second.Digest() {
		t.Fatal("digests differ")
	}
}

// The same with long sequences, so that collections grow beyond a page and keys expire.
func TestTwoMachinesStayEqual(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dice := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		b := make([]byte, 6000)
		for i := range b {
			b[i] = byte(dice.Uint32())
		}
		applyToTwo(t, b)
	})
}

// FuzzPayload: no payload may panic or take memory beyond its size; what decodes must encode to the same requests.
func FuzzPayload(f *testing.F) {
	f.Add(AppendCommand(nil, bytesOf([]string{"set", "a", "b"})))
	f.Add(AppendTransaction(nil, []Watch{{Key: []byte("a"), Version: 7}}, [][][]byte{bytesOf([]string{"get", "a"}), bytesOf([]string{"incr", "b"})}))
	everything := Envelope{Database: 3, User: "u", NoTouch: true}
	f.Add(everything.AppendCommand(nil, bytesOf([]string{"set", "a", "b"})))
	f.Add(everything.AppendRecord(nil, bytesOf([]string{"sign"})))
	f.Fuzz(func(t *testing.T, b []byte) {
		New().Apply(Instant{LSN: 1, Stamp: 1}, smr.Request{Session: 1, Sequence: 1, Payload: b}, nil)
		p, err := DecodePayload(b)
		if err != nil {
			return
		}
		var again []byte
		switch {
		case p.Transaction:
			again = p.Envelope.AppendTransaction(nil, p.Watches, p.Commands)
		case p.Record:
			again = p.Envelope.AppendRecord(nil, p.Commands[0])
		default:
			again = p.Envelope.AppendCommand(nil, p.Commands[0])
		}
		q, err := DecodePayload(again)
		if err != nil || fmt.Sprint(p) != fmt.Sprint(q) {
			t.Fatalf("%q became %q: %v", b, again, err)
		}
	})
}
