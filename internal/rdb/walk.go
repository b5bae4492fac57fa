package rdb

import (
	"errors"
	"fmt"
	"strconv"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// scanCount is how many keys a step of Walk asks for.
const scanCount = 1000

// Visitor takes what Walk finds: all functions first, then key by key, database by database. What it is given may not be kept.
type Visitor interface {
	Function(code []byte) error
	Key(database int, key []byte, expire int64, payload []byte) error
	Close() error
}

// asker asks a machine.
type asker struct {
	m        *kv.Machine
	database int
	reply    resp.Reply
}

// ask executes a command that reads.
func (a *asker) ask(args ...string) (resp.Value, error) {
	words := make([][]byte, len(args))
	for i, arg := range args {
		words[i] = []byte(arg)
	}
	a.reply.Reset()
	a.m.ReadIn(kv.Envelope{Database: a.database, NoTouch: true}, 0, words, &a.reply)
	value, used, err := resp.Decode(a.reply.Buf)
	switch {
	case err != nil || used != len(a.reply.Buf):
		return value, fmt.Errorf("%s answers what is no reply: %v", args[0], err)
	case value.Kind == '-':
		return value, fmt.Errorf("%s: %s", args[0], value.Text)
	}
	return value, nil
}

// Walk visits the state of m as it is by log time; m must not change meanwhile. progress, unless it is nil, is told how many keys
// have been visited. The visitor is not closed.
func Walk(m *kv.Machine, visitor Visitor, progress func(keys int)) error {
	a := &asker{m: m}
	if err := walkFunctions(a, visitor); err != nil {
		return err
	}
	keys := 0
	for a.database = 0; a.database < kv.Databases; a.database++ {
		err := a.eachKey(func(key string) error {
			expire, err := a.ask("PEXPIRETIME", key)
			if err != nil {
				return err
			}
			payload, err := a.ask("DUMP", key)
			if err != nil {
				return err
			}
			if payload.Null {
				return nil // expired since SCAN: not by log time, which stands still
			}
			keys++
			if progress != nil && keys%scanCount == 0 {
				progress(keys)
			}
			return visitor.Key(a.database, []byte(key), max(expire.Int, 0), []byte(payload.Text))
		})
		if err != nil {
			return fmt.Errorf("database %d: %w", a.database, err)
		}
	}
	if progress != nil {
		progress(keys)
	}
	return nil
}

// eachKey visits every key of the database.
func (a *asker) eachKey(visit func(key string) error) error {
	for cursor := "0"; ; {
		page, err := a.ask("SCAN", cursor, "COUNT", strconv.Itoa(scanCount))
		if err != nil {
			return err
		}
		if len(page.Items) != 2 {
			return errors.New("SCAN answers what is no page")
		}
		for _, key := range page.Items[1].Items {
			if err := visit(key.Text); err != nil {
				return fmt.Errorf("key %q: %w", short([]byte(key.Text)), err)
			}
		}
		if cursor = page.Items[0].Text; cursor == "0" {
			return nil
		}
	}
}

func walkFunctions(a *asker, visitor Visitor) error {
	list, err := a.ask("FUNCTION", "LIST", "WITHCODE")
	if err != nil {
		return err
	}
	for _, library := range list.Items {
		for i := 0; i+1 < len(library.Items); i += 2 {
			if library.Items[i].Text == "library_code" {
				if err := visitor.Function([]byte(library.Items[i+1].Text)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
