package script

import (
	lua "github.com/yuin/gopher-lua"
)

var tableLibrary = []library{
	{"concat", tableConcat}, {"foreach", tableForeach}, {"foreachi", tableForeachi}, {"getn", tableGetn}, {"insert", tableInsert}, {"maxn", tableMaxn},
	{"remove", tableRemove}, {"setn", tableSetn}, {"sort", tableSort},
}

// open returns argument n, a table that may be changed.
func (f frame) open(n int) *lua.LTable {
	t := f.table(n)
	if f.e.frozen[t] {
		f.raise(readOnlyTable)
	}
	return t
}

func tableConcat(f frame) int {
	t, separator, first := f.table(1), f.textOr(2, ""), f.integerOr(3, 1)
	last := f.integerOr(4, t.Len())
	size := 0
	for i := first; i <= last; i++ {
		text, ok := textOf(t.RawGetInt(i))
		if !ok {
			f.fail("invalid value (" + t.RawGetInt(i).Type().String() + ") at index " + numberText(float64(i)) + " in table for 'concat'")
		}
		size += len(text) + len(separator)
	}
	f.e.take(f.l, size+stringBytes)
	f.e.work(f.l, max(0, last-first)/4+size/64)
	b := make([]byte, 0, size)
	for i := first; i <= last; i++ {
		text, _ := textOf(t.RawGetInt(i))
		if b = append(b, text...); i < last {
			b = append(b, separator...)
		}
	}
	return f.push(lua.LString(b))
}

func tableForeach(f frame) int {
	t, fn := f.table(1), f.function(2)
	for k, v := t.Next(lua.LNil); k != lua.LNil; k, v = t.Next(k) {
		if result := f.callOne(fn, k, v); result != lua.LNil {
			return f.push(result)
		}
	}
	return 0
}

func tableForeachi(f frame) int {
	t, fn := f.table(1), f.function(2)
	for i, n := 1, t.Len(); i <= n; i++ {
		if result := f.callOne(fn, lua.LNumber(i), t.RawGetInt(i)); result != lua.LNil {
			return f.push(result)
		}
	}
	return 0
}

func tableGetn(f frame) int { return f.pushNumber(float64(f.table(1).Len())) }

func tableSetn(f frame) int {
	f.table(1)
	f.fail("'setn' is obsolete")
	return 0
}

func tableMaxn(f frame) int {
	t := f.table(1)
	largest := lua.LNumber(0)
	n := 0
	for k, _ := t.Next(lua.LNil); k != lua.LNil; k, _ = t.Next(k) {
		if number, ok := k.(lua.LNumber); ok && number > largest {
			largest = number
		}
		n++
	}
	f.e.work(f.l, n/4)
	return f.push(largest)
}

func tableInsert(f frame) int {
	t := f.open(1)
	length := t.Len()
	switch f.count() {
	case 2:
		f.e.assignIndex(f.l, t, length+1, f.l.Get(2))
		return 0
	case 3:
	default:
		f.fail("wrong number of arguments to 'insert'")
	}
	at, value := f.integer(2), f.l.Get(3)
	if at < 1 || at > length || value == lua.LNil {
		f.e.work(f.l, max(0, length-max(at, 0))/4)
		for i := length; i >= max(at, 1) && at > 0; i-- {
			f.e.assignIndex(f.l, t, i+1, t.RawGetInt(i))
		}
		f.e.assign(f.l, t, lua.LNumber(at), value)
		return 0
	}
	f.e.take(f.l, 2*slotBytes)
	f.e.work(f.l, (length-at)/32)
	t.Insert(at, value)
	return 0
}

func tableRemove(f frame) int {
	t := f.open(1)
	length := t.Len()
	at := f.integerOr(2, length)
	if at < 1 || at > length {
		return 0
	}
	v := t.RawGetInt(at)
	f.e.work(f.l, (length-at)/32)
	if t.MaxN() == length {
		t.Remove(at)
		return f.push(v)
	}
	for i := at; i < length; i++ {
		t.RawSetInt(i, t.RawGetInt(i+1))
	}
	f.e.assignIndex(f.l, t, length, lua.LNil)
	return f.push(v)
}

// tableSort sorts by merging, which needs no order to be consistent and calls the comparison in the same order everywhere.
func tableSort(f frame) int {
	t := f.open(1)
	var less *lua.LFunction
	if !f.absent(2) {
		less = f.function(2)
	}
	n := t.Len()
	f.e.take(f.l, 2*n*slotBytes)
	values, spare := make([]lua.LValue, n), make([]lua.LValue, n)
	for i := range values {
		values[i] = t.RawGetInt(i + 1)
	}
	s := sorter{f: f, less: less}
	s.sort(values, spare)
	for i, v := range values {
		t.RawSetInt(i+1, v)
	}
	return 0
}

type sorter struct {
	f    frame
	less *lua.LFunction
}

func (s sorter) sort(values, spare []lua.LValue) {
	if len(values) < 2 {
		return
	}
	half := len(values) / 2
	s.sort(values[:half], spare[:half])
	s.sort(values[half:], spare[half:])
	if !s.before(values[half], values[half-1]) {
		return
	}
	copy(spare, values)
	left, right := spare[:half], spare[half:]
	for i := range values {
		if len(left) == 0 || len(right) > 0 && s.before(right[0], left[0]) {
			values[i], right = right[0], right[1:]
		} else {
			values[i], left = left[0], left[1:]
		}
	}
}

func (s sorter) before(a, b lua.LValue) bool {
	if s.less != nil {
		return lua.LVAsBool(s.f.callOne(s.less, a, b))
	}
	s.f.e.work(s.f.l, 2)
	if a.Type() != b.Type() {
		s.f.raise("attempt to compare " + a.Type().String() + " with " + b.Type().String())
	}
	return s.f.l.LessThan(a, b)
}
