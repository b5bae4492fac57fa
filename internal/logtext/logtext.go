// Package logtext writes what is in the log for people: requests as KV nodes read them.
package logtext

import (
	"encoding/base64"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"lockstep/internal/kv"
	"lockstep/smr"
)

// TimeForm is how times are written.
const TimeForm = "2006-01-02T15:04:05.000Z07:00"

// ArgumentShown bounds what is shown of an argument, in bytes.
const ArgumentShown = 64

// Request is a request of the log as KV nodes read it.
type Request struct {
	LSN         uint64     `json:"lsn"` // of its frame
	Index       int        `json:"index"`
	Time        string     `json:"time"`
	Session     string     `json:"session"`
	Sequence    uint64     `json:"sequence"`
	Database    int        `json:"database"`
	User        string     `json:"user,omitempty"`
	Transaction bool       `json:"transaction,omitempty"`
	Record      bool       `json:"record,omitempty"` // written by a node itself
	Base64      bool       `json:"base64,omitempty"` // arguments are base64: one of them is not UTF-8
	Commands    [][]string `json:"commands"`

	Bytes int `json:"-"` // of what it carries
}

// Requests decodes the requests of a frame.
func Requests(f smr.Frame, visit func(Request) error) error {
	rest := f.Body
	for i := range f.Count {
		request, behind, err := smr.CutRequest(rest)
		if err != nil {
			return err
		}
		rest = behind
		text := Request{LSN: uint64(f.LSN), Index: i, Time: time.UnixMilli(f.Stamp).UTC().Format(TimeForm), Session: fmt.Sprintf("%016x", uint64(request.Session)),
			Sequence: request.Sequence, Commands: [][]string{}, Bytes: len(request.Payload)}
		if len(request.Payload) > 0 {
			payload, err := kv.DecodePayload(request.Payload)
			if err != nil {
				return fmt.Errorf("request %d of the frame at %d: %w", i, f.LSN, err)
			}
			text.Database, text.User, text.Transaction, text.Record = payload.Envelope.Database, payload.Envelope.User, payload.Transaction, payload.Record
			for _, args := range payload.Commands {
				command := make([]string, len(args))
				for j, arg := range args {
					command[j] = string(arg)
				}
				text.Commands = append(text.Commands, command)
			}
		}
		if err := visit(text); err != nil {
			return err
		}
	}
	return nil
}

// Line is the request for people.
func (r *Request) Line() string {
	var commands []string
	for _, args := range r.Commands {
		commands = append(commands, CommandText(args, ArgumentShown))
	}
	text := strings.Join(commands, " ; ")
	switch {
	case r.Transaction:
		text = "MULTI " + text
	case r.Record:
		text = "record " + text
	case len(r.Commands) == 0:
		text = "(nothing)"
	}
	if r.Database != 0 {
		text = fmt.Sprintf("db%d %s", r.Database, text)
	}
	return text
}

// CommandText writes arguments as redis-cli reads them; at most so many bytes of each, 0 for all.
func CommandText(args []string, most int) string {
	words := make([]string, len(args))
	for i, arg := range args {
		cut := most > 0 && len(arg) > most
		if cut {
			arg = arg[:most]
		}
		words[i] = arg
		if arg == "" || strings.ContainsFunc(arg, func(c rune) bool { return c <= ' ' || c == '"' || c == '\'' || c > '~' }) {
			words[i] = quoteBytes(arg)
		}
		if cut {
			words[i] += "…"
		}
	}
	return strings.Join(words, " ")
}

// quoteBytes quotes every byte that is not printable ASCII, as redis-cli does.
func quoteBytes(text string) string {
	var quoted strings.Builder
	quoted.WriteByte('"')
	for i := range len(text) {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			quoted.WriteByte('\\')
			quoted.WriteByte(c)
		case c == '\n':
			quoted.WriteString(`\n`)
		case c < ' ' || c > '~':
			fmt.Fprintf(&quoted, `\x%02x`, c)
		default:
			quoted.WriteByte(c)
		}
	}
	quoted.WriteByte('"')
	return quoted.String()
}

// ForJSON makes arguments that JSON can hold.
func (r *Request) ForJSON() {
	for _, args := range r.Commands {
		for _, arg := range args {
			r.Base64 = r.Base64 || !utf8.ValidString(arg)
		}
	}
	for _, args := range r.Commands {
		for j := range args {
			if r.Base64 {
				args[j] = base64.StdEncoding.EncodeToString([]byte(args[j]))
			}
		}
	}
}
