package floor

import (
	"bytes"
	"errors"
)

// command is a GET or SET in the bytes of a client.
type command struct {
	key, value []byte // value is nil of a GET
	size       int    // bytes that it takes; 0: its end has not come yet
}

var errUnknown = errors.New("only GET and SET are known here")

// maxPart bounds a key or a value in bytes.
const maxPart = 64 << 10

// parse reads the first command of b. It keeps b.
func parse(b []byte) (c command, err error) {
	words, at, err := number(b, 0, '*')
	if err != nil || at == 0 {
		return command{}, err
	}
	var parts [3][]byte
	if words != 2 && words != 3 {
		return command{}, errUnknown
	}
	for i := range words {
		size, next, err := number(b, at, '$')
		if err != nil || next == 0 {
			return command{}, err
		}
		if len(b) < next+size+2 {
			return command{}, nil
		}
		parts[i] = b[next : next+size]
		at = next + size + 2
	}
	c = command{key: parts[1], size: at}
	switch {
	case words == 3 && bytes.EqualFold(parts[0], wordSet):
		c.value = parts[2]
		return c, nil
	case words == 2 && bytes.EqualFold(parts[0], wordGet):
		return c, nil
	}
	return command{}, errUnknown
}

var wordSet, wordGet = []byte("SET"), []byte("GET")

// number reads a mark, digits and the end of a line at b[at:]. next is what follows; 0: the end of the line has not come yet.
func number(b []byte, at int, mark byte) (value, next int, err error) {
	if at >= len(b) {
		return 0, 0, nil
	}
	if b[at] != mark {
		return 0, 0, errUnknown
	}
	for i := at + 1; i < len(b); i++ {
		switch digit := b[i]; {
		case digit >= '0' && digit <= '9':
			if value = value*10 + int(digit-'0'); value > maxPart {
				return 0, 0, errUnknown
			}
		case digit != '\r' || i == at+1:
			return 0, 0, errUnknown
		case i+1 < len(b):
			return value, i + 2, nil
		}
	}
	return 0, 0, nil
}

// table is what a full skeleton executes into.
type table map[string][]byte

// set keeps copies.
func (t table) set(key, value []byte) {
	if old := t[string(key)]; old != nil && len(old) == len(value) {
		copy(old, value)
		return
	}
	t[string(key)] = append(make([]byte, 0, len(value)), value...)
}

// execute executes the commands of a frame that nobody here waits for.
func (t table) execute(commands []byte) error {
	for len(commands) > 0 {
		c, err := parse(commands)
		if err != nil || c.size == 0 {
			return errors.Join(errors.New("a frame holds what is no command"), err)
		}
		if c.value != nil {
			t.set(c.key, c.value)
		}
		commands = commands[c.size:]
	}
	return nil
}
