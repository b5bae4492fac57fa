package replica

import (
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unsafe"

	"lockstep/smr"
)

// ignored lists the fields that AppendState leaves out, with the reason. Everything else must show.
var ignored = map[string]string{
	"o":                        "options never change",
	"held[].order":             "says who is told",
	"fence.waiting[]":          "says who is told",
	"fence.answer.Life":        "the caller knows it",
	"fence.answer.Incarnation": "the caller knows it",
}

// full returns a replica in which every field is set and every slice has two elements, in the given mode.
func full(t *testing.T, m mode) *Replica {
	t.Helper()
	r := &Replica{}
	next := uint64(1)
	fill(t, reflect.ValueOf(r).Elem(), &next)
	r.mode = m
	// What the encoding asks for: tickets that are not done, ticks below now (that of a grant above it), kinds that are not answers, names in order.
	r.ticks, r.done = 1<<20, 0
	r.o.LeaseHold = 1 << 30
	r.grant.until += r.ticks
	for i := range r.held {
		r.held[i].kind = heldDial
	}
	return r
}

// fill sets everything below v to distinct values that are not zero.
func fill(t *testing.T, v reflect.Value, next *uint64) {
	*next++
	v = writable(v)
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i), next)
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range v.Len() {
			fill(t, v.Index(i), next)
		}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(*next % 200)
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*next % 200))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		v.SetString(fmt.Sprintf("n%d", *next))
	default:
		t.Fatalf("a field of kind %v: teach this test, Clone and AppendState about it", v.Kind())
	}
}

// writable lets a test set fields that are not exported.
func writable(v reflect.Value) reflect.Value {
	return reflect.NewAt(v.Type(), unsafe.Pointer(v.UnsafeAddr())).Elem()
}

// visit calls change for every leaf below v with its path.
func visit(v reflect.Value, path string, change func(v reflect.Value, path string)) {
	v = writable(v)
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			visit(v.Field(i), strings.TrimPrefix(path+"."+v.Type().Field(i).Name, "."), change)
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(v.Index(i), path+"[]", change)
		}
	default:
		change(v, path)
	}
}

// alter changes a leaf and returns what puts it back.
func alter(v reflect.Value) (restore func()) {
	before := reflect.New(v.Type()).Elem()
	before.Set(v)
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.String:
		v.SetString(v.String() + "x")
	case reflect.Int, reflect.Int64:
		v.SetInt(v.Int() + 1)
	default:
		v.SetUint(v.Uint() + 1)
	}
	return func() { v.Set(before) }
}

// What could go wrong: a new field of the core is forgotten in Clone, a continuation of one state changes another, and the
// explorer draws its conclusions from a state that never was. Every field, found by reflection, is set, cloned, compared, and
// then changed in the clone: the original may not notice.
func TestCloneSharesNothing(t *testing.T) {
	r, twin := full(t, modeMaster), full(t, modeMaster)
	c := r.Clone()
	if !reflect.DeepEqual(r, c) {
		t.Fatalf("the clone differs:\n%+v\n%+v", r, c)
	}
	leaves := 0
	visit(reflect.ValueOf(c).Elem(), "", func(v reflect.Value, path string) {
		leaves++
		alter(v)
		if !reflect.DeepEqual(r, twin) {
			t.Fatalf("changing %s in the clone changes the original", path)
		}
	})
	if leaves < 80 {
		t.Fatalf("only %d leaves were visited", leaves)
	}
	// Growing must not write into shared room behind a slice either.
	r.history = append(make(smr.History, 0, 8), r.history...)
	c = r.Clone()
	c.history = append(c.history, smr.Span{Epoch: 9, From: 9})
	r.history = append(r.history, smr.Span{Epoch: 7, From: 7})
	if c.history[len(c.history)-1].Epoch != 9 {
		t.Fatal("clone and original grow into the same memory")
	}
}

// inMode says in which mode a field is part of the state; everywhere if it is not named.
func inMode(path string) (mode, bool) {
	switch name, _, _ := strings.Cut(strings.TrimSuffix(path, "[]"), "."); strings.TrimSuffix(name, "[]") {
	case "fence":
		return modeFenced, true
	case "cfg", "base", "lead":
		return modeMaster, true
	case "follow":
		return modeSlave, true
	}
	return 0, false
}

// What could go wrong: AppendState forgets a field, two states that behave differently are taken for one, and the explorer
// reports a search as complete that never saw the second. Every field, found by reflection, is changed in turn, in the mode
// that it belongs to: the encoding must change, unless the field is listed with a reason.
func TestEveryFieldShowsInTheState(t *testing.T) {
	names := plainNames()
	for _, m := range []mode{modeFenced, modeMaster, modeSlave} {
		r := full(t, m)
		before := r.AppendState(nil, names)
		visit(reflect.ValueOf(r).Elem(), "", func(v reflect.Value, path string) {
			if _, left := ignored[path]; left || strings.HasPrefix(path, "o.") {
				return
			}
			if of, limited := inMode(path); limited && of != m {
				return
			}
			restore := alter(v)
			if bytes.Equal(before, r.AppendState(nil, names)) {
				t.Errorf("mode %d: a change of %s does not show", m, path)
			}
			restore()
		})
		if !bytes.Equal(before, r.AppendState(nil, names)) {
			t.Fatal("the test did not put everything back")
		}
	}
}

// plainNames writes every name as itself.
func plainNames() Naming {
	node := func(id smr.NodeID) uint64 {
		n := uint64(0)
		for _, char := range []byte(id) {
			n = n*31 + uint64(char)
		}
		return n
	}
	return Naming{
		Node:        node,
		Incarnation: func(m smr.Member) uint64 { return uint64(m.Incarnation) },
		Conn:        func(c ConnID) uint64 { return uint64(c) },
	}
}

// What could go wrong: a clone that goes on differently from its original, because something behind a pointer was left.
// Random worlds are cloned at every step and both must write the same state after the same input.
func TestCloneGoesOnLikeTheOriginal(t *testing.T) {
	for seed := uint64(1); seed <= 30; seed++ {
		w := newWorld(seed, 3, 2)
		for range 300 {
			w.act(1, 20)
			for _, n := range w.nodes {
				if n.r == nil {
					continue
				}
				before := n.r.AppendState(nil, plainNames())
				c := n.r.Clone()
				for _, in := range []Input{&Fence{Epoch: 1 << 20}, &Tick{Stamp: 5}, &ConnDown{Conn: n.r.follow.conn}} {
					c.Step(in, &Effects{})
				}
				if !bytes.Equal(before, n.r.AppendState(nil, plainNames())) {
					t.Fatalf("seed %d: what a clone does changes its original", seed)
				}
			}
		}
	}
}
