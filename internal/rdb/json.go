package rdb

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"lockstep/internal/kv"
	"lockstep/internal/resp"
)

// Bytes is a string as JSON has it: text if it is UTF-8, else {"base64": ...}.
type Bytes string

// MarshalJSON implements json.Marshaler.
func (b Bytes) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(b)) {
		return json.Marshal(string(b))
	}
	return json.Marshal(map[string][]byte{"base64": []byte(b)})
}

// JSONKey is a line of JSON.
type JSONKey struct {
	Database int    `json:"db"`
	Key      Bytes  `json:"key"`
	Type     string `json:"type"`
	Expire   int64  `json:"expire_ms,omitempty"` // Unix milliseconds
	Value    any    `json:"value"`
}

// JSONStream is the value of a stream.
type JSONStream struct {
	LastID  string      `json:"last_id"`
	Entries []JSONEntry `json:"entries"`
	Groups  []JSONGroup `json:"groups"`
}

// JSONEntry is an entry of a stream.
type JSONEntry struct {
	ID     string     `json:"id"`
	Fields [][2]Bytes `json:"fields"`
}

// JSONGroup is a group of a stream: how far it has come. What it has pending is in RDB only.
type JSONGroup struct {
	Name    Bytes  `json:"name"`
	LastID  string `json:"last_delivered_id"`
	Pending int64  `json:"pending"`
}

// WriteJSON writes every key of m as an object on a line of its own, and every library of functions as {"function": code}:
// for people and programs that look for something. Lists and sets are arrays, hashes and sorted sets
// arrays of pairs; sets and hashes are sorted. m must
// not change meanwhile; progress as for Walk.
func WriteJSON(m *kv.Machine, w io.Writer, progress func(keys int)) error {
	out := bufio.NewWriterSize(w, 256<<10)
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	if err := Walk(m, &jsonVisitor{ask: &asker{m: m}, encoder: encoder}, progress); err != nil {
		return err
	}
	return out.Flush()
}

// jsonVisitor asks for each key once more, by its type.
type jsonVisitor struct {
	ask     *asker
	encoder *json.Encoder
}

// Function implements Visitor.
func (v *jsonVisitor) Function(code []byte) error {
	return v.encoder.Encode(map[string]Bytes{"function": Bytes(code)})
}

// Close implements Visitor.
func (v *jsonVisitor) Close() error { return nil }

// Key implements Visitor.
func (v *jsonVisitor) Key(database int, key []byte, expire int64, _ []byte) error {
	v.ask.database = database
	kind, err := v.ask.ask("TYPE", string(key))
	if err != nil {
		return err
	}
	line := JSONKey{Database: database, Key: Bytes(key), Type: kind.Text, Expire: expire}
	if line.Value, err = v.value(string(key), kind.Text); err != nil {
		return err
	}
	return v.encoder.Encode(line)
}

func (v *jsonVisitor) value(key, kind string) (any, error) {
	switch kind {
	case "string":
		text, err := v.ask.ask("GET", key)
		return Bytes(text.Text), err
	case "list":
		return v.list("LRANGE", key, "0", "-1")
	case "set":
		members, err := v.list("SMEMBERS", key)
		slices.Sort(members)
		return members, err
	case "hash":
		pairs, err := v.pairs("HGETALL", key)
		slices.SortFunc(pairs, func(a, b [2]Bytes) int { return strings.Compare(string(a[0]), string(b[0])) })
		return pairs, err
	case "zset":
		return v.pairs("ZRANGE", key, "0", "-1", "WITHSCORES")
	case "stream":
		return v.stream(key)
	}
	return nil, fmt.Errorf("a value of unknown type %q", kind)
}

func (v *jsonVisitor) list(args ...string) ([]Bytes, error) {
	reply, err := v.ask.ask(args...)
	list := make([]Bytes, 0, len(reply.Items))
	for _, item := range reply.Items {
		list = append(list, Bytes(item.Text))
	}
	return list, err
}

func (v *jsonVisitor) pairs(args ...string) ([][2]Bytes, error) {
	reply, err := v.ask.ask(args...)
	return pairsOf(reply.Items), err
}

func pairsOf(items []resp.Value) [][2]Bytes {
	pairs := make([][2]Bytes, 0, len(items)/2)
	for i := 0; i+1 < len(items); i += 2 {
		pairs = append(pairs, [2]Bytes{Bytes(items[i].Text), Bytes(items[i+1].Text)})
	}
	return pairs
}

func (v *jsonVisitor) stream(key string) (*JSONStream, error) {
	entries, err := v.ask.ask("XRANGE", key, "-", "+")
	if err != nil {
		return nil, err
	}
	info, err := v.ask.ask("XINFO", "STREAM", key)
	if err != nil {
		return nil, err
	}
	groups, err := v.ask.ask("XINFO", "GROUPS", key)
	if err != nil {
		return nil, err
	}
	stream := &JSONStream{LastID: field(info, "last-generated-id").Text, Entries: []JSONEntry{}, Groups: []JSONGroup{}}
	for _, entry := range entries.Items {
		if len(entry.Items) == 2 {
			stream.Entries = append(stream.Entries, JSONEntry{ID: entry.Items[0].Text, Fields: pairsOf(entry.Items[1].Items)})
		}
	}
	for _, group := range groups.Items {
		stream.Groups = append(stream.Groups, JSONGroup{
			Name: Bytes(field(group, "name").Text), LastID: field(group, "last-delivered-id").Text, Pending: field(group, "pending").Int,
		})
	}
	return stream, nil
}

// field returns what stands behind name in an array of names and values.
func field(of resp.Value, name string) resp.Value {
	for i := 0; i+1 < len(of.Items); i += 2 {
		if of.Items[i].Text == name {
			return of.Items[i+1]
		}
	}
	return resp.Value{}
}
