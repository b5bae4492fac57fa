package alike

import (
	"strings"
	"testing"

	"lockstep/internal/resp"
)

// rows encodes a reply of a search: a member and its distance each.
func rows(pairs ...string) string {
	var r resp.Reply
	r.Array(len(pairs))
	for _, pair := range pairs {
		name, distance, _ := strings.Cut(pair, " ")
		r.Array(2)
		r.BulkString(name)
		r.BulkString(distance)
	}
	return string(r.Buf)
}

// What could go wrong: a comparison that finds everything alike shows nothing.
func TestReply(t *testing.T) {
	tests := []struct {
		args            []string
		kind, got, want string
		alike           bool
	}{
		{[]string{"get", "a"}, "", "$1\r\nx\r\n", "$1\r\nx\r\n", true},
		{[]string{"get", "a"}, "", "$1\r\nx\r\n", "$1\r\ny\r\n", false},
		{[]string{"get", "a"}, "", "$3\r\n0.1\r\n", "$4\r\n0.10\r\n", false},
		{[]string{"get", "h"}, "", "$18\r\nHYLL\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80ab\r\n", "$18\r\nHYLL\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00ab\r\n", true},
		{[]string{"get", "h"}, "", "$18\r\nHYLL\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80ab\r\n", "$18\r\nHYLL\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00ax\r\n", false},
		{[]string{"get", "h"}, "", "$18\r\nHYLL\x01\x00\x00\x00\x07\x00\x00\x00\x00\x00\x00\x00ab\r\n", "$18\r\nHYLL\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00ab\r\n", false},
		{[]string{"getrange", "h", "1", "16"}, "", "$16\r\nYLL\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80a\r\n", "$16\r\nYLL\x01\x00\x00\x00\x05\x00\x00\x00\x00\x00\x00\x00a\r\n", true},
		{[]string{"getrange", "h", "15", "16"}, "", "$2\r\n\x80a\r\n", "$2\r\n\x00a\r\n", true},
		{[]string{"getrange", "h", "3", "4"}, "", "$2\r\nab\r\n", "$2\r\nac\r\n", false},
		{[]string{"zscore", "a", "b"}, "", "$3\r\n0.1\r\n", "$19\r\n0.10000000000000001\r\n", true},
		{[]string{"zscore", "a", "b"}, "", "$3\r\n0.1\r\n", "$3\r\n0.2\r\n", false},
		{[]string{"zscore", "a", "b"}, "", ",0.1\r\n", ",0.10000000000000001\r\n", true},
		{[]string{"zrange", "a", "0", "-1"}, "", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n", false},
		{[]string{"smembers", "a"}, "", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\nb\r\n$1\r\na\r\n", true},
		{[]string{"smembers", "a"}, "", "*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*2\r\n$1\r\na\r\n$1\r\na\r\n", false},
		{[]string{"hgetall", "a"}, "", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$1\r\n2\r\n", "*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n", true},
		{[]string{"hgetall", "a"}, "", "*4\r\n$1\r\na\r\n$1\r\n2\r\n$1\r\nb\r\n$1\r\n1\r\n", "*4\r\n$1\r\nb\r\n$1\r\n2\r\n$1\r\na\r\n$1\r\n1\r\n", false},
		{[]string{"ttl", "a"}, "", ":10\r\n", ":11\r\n", true},
		{[]string{"ttl", "a"}, "", ":10\r\n", ":12\r\n", false},
		{[]string{"ttl", "a"}, "", ":1\r\n", ":-1\r\n", false},
		{[]string{"object", "encoding", "a"}, "set", "$8\r\nlistpack\r\n", "$9\r\nhashtable\r\n", true},
		{[]string{"object", "encoding", "a"}, "hash", "$8\r\nlistpack\r\n", "$9\r\nhashtable\r\n", false},
		{[]string{"srandmember", "a"}, "", "$1\r\na\r\n", "$1\r\nb\r\n", true},
		{[]string{"srandmember", "a"}, "", "$1\r\na\r\n", "$-1\r\n", false},
		{[]string{"sscan", "a", "0"}, "", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", "*2\r\n$1\r\n0\r\n*1\r\n$1\r\nb\r\n", false},
		{[]string{"geosearch", "k", "asc", "count", "2", "withdist"}, "", rows("a 1", "b 2"), rows("a 1", "c 2"), true},
		{[]string{"geosearch", "k", "asc", "count", "2", "withdist"}, "", rows("a 1", "b 2"), rows("c 1", "b 2"), false},
		{[]string{"geosearch", "k", "asc", "count", "3", "withdist"}, "", rows("a 1", "b 1", "d 2"), rows("b 1", "a 1", "c 2"), true},
		{[]string{"geosearch", "k", "asc", "count", "2", "withdist"}, "", rows("a 1", "b 2"), rows("a 1", "b 3"), false},
		{[]string{"geosearch", "k", "asc", "count", "2", "withdist"}, "", rows("a 1", "b 2"), rows("a 1"), false},
		{[]string{"geosearch", "k", "asc", "count", "2", "any", "withdist"}, "", rows("a 1", "b 2"), rows("c 1", "b 2"), true},
		{[]string{"geosearch", "k", "asc", "count", "2", "any", "withdist"}, "", rows("a 1", "b 2"), rows("c 1", "b 3"), false},
		{[]string{"geosearch", "k", "asc", "count", "2"}, "", "*1\r\n$1\r\na\r\n", "*1\r\n$1\r\nb\r\n", false},
		{[]string{"zmpop", "1", "k", "min", "count", "2"}, "", "*1\r\n$1\r\na\r\n", "*1\r\n$1\r\nb\r\n", false},
		{[]string{"set", "a", "b"}, "", "+OK\r\n", "-ERR x\r\n", false},
	}
	for _, test := range tests {
		if got := Reply(test.args, test.kind, test.got, test.want); got != test.alike {
			t.Errorf("%q: %q and %q are alike: %v", test.args, test.got, test.want, got)
		}
	}
}
