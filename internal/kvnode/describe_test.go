package kvnode

import (
	"strings"
	"testing"

	"lockstep/internal/kv"
	"lockstep/proto"
	"lockstep/smr"
)

// What could go wrong: damage in a body ends the process, a long batch floods whoever asked, or the hash of a password is shown.
func TestDescribeRequests(t *testing.T) {
	words := func(list ...string) (args [][]byte) {
		for _, word := range list {
			args = append(args, []byte(word))
		}
		return args
	}
	batch := func(payloads ...[]byte) *proto.RequestBatch {
		b := &proto.RequestBatch{Count: uint32(len(payloads))}
		for i, payload := range payloads {
			b.Body = smr.AppendRequest(b.Body, smr.Request{Session: 5, Sequence: uint64(i + 1), Payload: payload})
		}
		return b
	}
	set := kv.AppendCommand(nil, words("SET", "a key", strings.Repeat("x", 1000)))
	texts := describe(batch(set, kv.Envelope{}.AppendRecord(nil, words("user", "ann", "on #0123456789abcdef ~*"))))
	if len(texts.GetRequests()) != 2 || texts.GetRest() != "" || len(texts.GetRequests()[0]) > 100 || !strings.HasPrefix(texts.GetRequests()[0], `SET "a key" xxx`) {
		t.Errorf("%v", texts)
	}
	if line := texts.GetRequests()[1]; strings.Contains(line, "abcdef") || !strings.Contains(line, "ann") {
		t.Errorf("the record of a user: %s", line)
	}
	many := make([][]byte, requestsShown+7)
	for i := range many {
		many[i] = set
	}
	if texts := describe(batch(many...)); len(texts.GetRequests()) != requestsShown || texts.GetRest() != "and 7 more" {
		t.Errorf("%d requests, %q", len(texts.GetRequests()), texts.GetRest())
	}
	whole := batch(set, set)
	for cut := range len(whole.GetBody()) {
		if texts := describe(&proto.RequestBatch{Body: whole.GetBody()[:cut], Count: 2}); len(texts.GetRequests()) > 1 || texts.GetRest() == "" {
			t.Fatalf("cut at %d: %v", cut, texts)
		}
	}
}
