package kv

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"testing"

	"lockstep/internal/resp"
)

// coldRows are pinned rows.
type coldRows map[string]string

func (r coldRows) Row(key []byte, visit func([]byte) error) error {
	row, ok := r[string(key)]
	if !ok {
		return errors.New("the row is not there")
	}
	return visit([]byte(row))
}

func (r coldRows) Rows(from, end []byte, visit func(key, value []byte) error) error {
	var keys []string
	for key := range r {
		if key >= string(from) && key < string(end) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if err := visit([]byte(key), []byte(r[key])); err != nil {
			return err
		}
	}
	return nil
}

// cooler takes images of a machine, lets its values become cold and warm again, and starts it anew, while a twin that keeps all values
// in memory executes the same.
type cooler struct {
	*imager
	twin  *Machine
	back  []ReadBack
	stats struct{ chilled, taken, back, restarts, unpinned, failed int }
}

func newCooler(t testing.TB, seed uint64) *cooler {
	c := &cooler{imager: newImager(t, seed), twin: New()}
	c.m.SetTier(c)
	c.also = func(entry logged) {
		if reply := applyLogged(c.twin, entry); reply != entry.reply {
			t.Fatalf("%q is answered %q, by the twin %q", entry.request.Payload, entry.reply, reply)
		}
	}
	return c
}

func (c *cooler) Used(byte, uint64)      {}
func (c *cooler) Idle(byte, uint64) bool { return c.dice.IntN(3) > 0 }
func (c *cooler) Read(back ReadBack)     { c.back = append(c.back, back) }

// cool lets some values become cold, also those for which there is nothing to gain.
func (c *cooler) cool(each int) {
	for _, d := range &c.m.databases {
		d.keys.each(func(e *entry) bool {
			if e.value.held&heldCold == 0 && c.m.clean(d, e) && c.dice.IntN(each) == 0 {
				c.m.chill(d, e)
				c.stats.chilled++
			}
			return true
		})
	}
}

// warmUp takes some of what was read back.
func (c *cooler) warmUp() {
	for _, back := range c.back {
		if c.dice.IntN(2) == 0 && c.m.TakeBack(back) {
			c.stats.taken++
		}
	}
	c.back = nil
}

// advance takes the next rows of an image. One that is whole is pinned, and may be started from.
func (c *cooler) advance(limit int) {
	if c.dice.IntN(40) == 0 {
		c.m.EndImage(false)
		c.taking = false
		c.stats.failed++
		return
	}
	more := c.m.NextRows(limit, &c.rows)
	c.store.take(c.t, &c.rows)
	if more {
		return
	}
	c.taking = false
	c.store.end()
	c.m.EndImage(true)
	if c.dice.IntN(3) > 0 {
		// the next one is compared
	} else if loaded := c.store.load(c.t); loaded.Applied() != c.start.LSN || loaded.Digest() != c.digest {
		c.t.Fatalf("image at %d: the loaded machine differs", c.start.LSN)
	}
	if c.dice.IntN(8) == 0 { // it could not be opened for cold values
		c.stats.unpinned++
		return
	}
	c.store.pinned = coldRows(maps.Clone(c.store.rows))
	c.m.Pin(c.store.pinned)
	if c.dice.IntN(3) == 0 {
		c.restart()
	}
}

// restart goes on with a machine made of the pinned image, which was just taken, and the log behind it.
func (c *cooler) restart() {
	c.stats.restarts++
	m := strict()
	l := LoadCold(m, int64(c.dice.IntN(200_000)-50_000))
	for _, key := range slices.Sorted(maps.Keys(c.store.pinned)) {
		if err := l.Row([]byte(key), []byte(c.store.pinned[key])); err != nil {
			c.t.Fatal(err)
		}
	}
	if err := l.End(); err != nil {
		c.t.Fatal(err)
	}
	m.Pin(c.store.pinned)
	if m.Digest() != c.digest {
		c.t.Fatalf("image at %d: the machine with cold values differs", c.start.LSN)
	}
	for _, entry := range c.log {
		if reply := applyLogged(m, entry); reply != entry.reply {
			c.t.Fatalf("behind the image at %d: %q is answered %q, was %q", c.start.LSN, entry.request.Payload, reply, entry.reply)
		}
	}
	c.stats.back += int(c.m.TierStats().Back)
	c.m, c.back = m, nil
	c.m.SetTier(c)
}

// check compares the figures of the machine with what it holds, and what it says with what its twin says.
func (c *cooler) check() {
	var used, bytes int64
	keys := 0
	for number, d := range &c.m.databases {
		d.keys.each(func(e *entry) bool {
			used += e.value.size()
			if e.value.held&heldCold != 0 {
				keys++
				bytes += contentSize(e)
			} else if int64(entrySize(e)) != e.value.size() {
				c.t.Fatalf("%q takes %d bytes, %d are counted", e.key(), entrySize(e), e.value.size())
			}
			mine, _ := c.m.KeySize(number, []byte(e.key()))
			if other, _ := c.twin.KeySize(number, []byte(e.key())); mine != other {
				c.t.Fatalf("%q takes %d bytes, by the twin %d", e.key(), mine, other)
			}
			if mine, other := c.m.Version(number, []byte(e.key())), c.twin.Version(number, []byte(e.key())); mine != other {
				c.t.Fatalf("%q has version %d, by the twin %d", e.key(), mine, other)
			}
			return true
		})
	}
	if s := c.m.TierStats(); used != c.m.used || keys != s.Keys || bytes != s.Bytes || s.Resident != used-bytes {
		c.t.Fatalf("%d bytes, %d cold keys with %d bytes; counted are %d bytes, %+v", used, keys, bytes, c.m.used, s)
	}
	if c.m.Digest() != c.twin.Digest() {
		c.t.Fatal("the twin has another digest")
	}
	c.compare(c.twin)
}

// What could go wrong: a value becomes cold that the pinned image does not have, or the row that it is read from changes, or a command, an
// image, an eviction or a digest takes a cold value for another one. Random commands of all types are executed on two machines; of one,
// values become cold and warm at any moment, and images are taken, fail, and are started from. All replies and all digests must be equal.
func TestColdValuesChangeNothing(t *testing.T) {
	var total struct{ chilled, taken, back, restarts, unpinned, failed, fronts, compared int }
	for seed := range uint64(7) {
		c := newCooler(t, seed)
		for round := range 600 {
			if c.dice.IntN(3) == 0 {
				c.drawn()
			} else {
				c.change()
			}
			switch {
			case c.taking:
				c.advance(c.dice.IntN(20_000))
			case c.dice.IntN(8) == 0:
				c.full = c.dice.IntN(10) == 0
				c.begin()
			}
			switch c.dice.IntN(6) {
			case 0:
				c.cool(1 + c.dice.IntN(3))
			case 1:
				c.m.Chill(int64(c.dice.IntN(100_000)), c.dice.IntN(500))
			case 2:
				c.warmUp()
			}
			if round%100 == 0 {
				c.check()
			}
		}
		c.check()
		total.chilled += c.stats.chilled
		total.taken += c.stats.taken
		total.back += c.stats.back + int(c.m.TierStats().Back)
		total.restarts += c.stats.restarts
		total.unpinned += c.stats.unpinned
		total.failed += c.stats.failed
		total.fronts += c.store.fronts[0]
		total.compared += c.store.fronts[1]
	}
	if total.chilled < 300 || total.taken < 100 || total.back < 300 || total.restarts < 20 || total.unpinned < 10 || total.failed < 10 || total.fronts < 100 || total.compared < 20 {
		t.Errorf("too little happened: %+v", total)
	}
}

// What could go wrong: a command that is drawn seldom takes a cold value for none, or for another kind. Every value that can be cold is, before
// each of many commands of all kinds, and an image is taken every few.
func TestAllCommandsMeetColdValues(t *testing.T) {
	for seed := range uint64(2) {
		c := newCooler(t, 100+seed)
		for round := range 2500 {
			if round%8 == 0 {
				c.begin()
				for c.taking {
					c.advance(1 << 20)
				}
			}
			c.cool(1)
			if round%60 < 12 {
				c.change()
			} else {
				c.drawn()
			}
			if round%200 == 0 {
				c.check()
			}
		}
		c.check()
		if c.stats.chilled < 700 || c.stats.back < 70 {
			t.Errorf("seed %d: %+v", seed, c.stats)
		}
	}
}

// A row that is gone, torn or of something else must stop the machine, for reads and for writes; never give a wrong value, or none.
func TestDamageOfColdValuesStops(t *testing.T) {
	fill := func() *cooler {
		c := newCooler(t, 1)
		c.m.SetTier(c)
		c.submit(Envelope{}.AppendCommand(nil, bytesOf([]string{"set", "a", "a text that is long enough"})))
		args := []string{"hset", "hash"}
		for n := range 2500 {
			args = append(args, "f"+strconv.Itoa(n), strconv.Itoa(n))
		}
		c.submit(Envelope{}.AppendCommand(nil, bytesOf(args)))
		c.begin()
		for c.taking {
			more := c.m.NextRows(1<<20, &c.rows)
			c.store.take(t, &c.rows)
			c.taking = more
		}
		c.store.end()
		c.m.EndImage(true)
		c.store.pinned = coldRows(maps.Clone(c.store.rows))
		c.m.Pin(c.store.pinned)
		c.cool(1)
		if got := c.m.TierStats().Keys; got != 2 {
			t.Fatalf("%d cold keys", got)
		}
		return c
	}
	stops := func(c *cooler, args ...string) (damage *Damage) {
		defer func() {
			if p := recover(); p != nil {
				damage = p.(*Damage)
			}
		}()
		reply := resp.Reply{Proto: 2}
		c.m.ReadIn(Envelope{}, 0, bytesOf(args), &reply)
		c.submit(Envelope{}.AppendCommand(nil, bytesOf([]string{"append", args[1], "more"})))
		return nil
	}
	sound := fill()
	for _, args := range [][]string{{"get", "a"}, {"strlen", "a"}} {
		if damage := stops(sound, args...); damage != nil {
			t.Fatalf("%q of a sound value: %v", args, damage)
		}
	}
	for key := range fill().store.pinned {
		if key[0] == spaceMachine {
			continue
		}
		changes := []func(row string) string{
			func(string) string { return "" },
			func(row string) string { return row[:len(row)-1] },
			func(row string) string { return row + "x" },
		}
		if key[0] == spaceKeys { // of parts of large objects the store has checksums, the machine none
			changes = append(changes, func(row string) string { return row[:len(row)-1] + string(row[len(row)-1]^1) })
		}
		for _, change := range changes {
			c := fill()
			c.store.pinned[key] = change(c.store.pinned[key])
			if changedShape := key[0] == spaceObjects && c.store.pinned[key] == ""; changedShape {
				delete(c.store.pinned, key)
			}
			if stops(c, "get", "a") == nil && stops(c, "hgetall", "hash") == nil {
				t.Errorf("row %x: nobody noticed that it is %q", key, c.store.pinned[key])
			}
		}
	}
}
