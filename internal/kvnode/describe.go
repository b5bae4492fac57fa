package kvnode

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/acl"
	"lockstep/internal/logtext"
	"lockstep/proto"
	"lockstep/smr"
)

const (
	// maxBatches bounds the batches of a Describe, requestsShown the requests that are written of each.
	maxBatches    = 200
	requestsShown = 50
)

// errEnough ends a walk over requests.
var errEnough = errors.New("enough")

// Describe implements proto.KVNodeServer.
func (m *manage) Describe(_ context.Context, in *proto.DescribeRequest) (*proto.DescribeReply, error) {
	if err := m.checkTarget(in.GetTarget()); err != nil {
		return nil, err
	}
	if len(in.GetBatches()) > maxBatches {
		return nil, status.Errorf(codes.InvalidArgument, "%d batches: at most %d are possible", len(in.GetBatches()), maxBatches)
	}
	reply := &proto.DescribeReply{}
	for _, batch := range in.GetBatches() {
		reply.Batches = append(reply.Batches, describe(batch))
	}
	return reply, nil
}

func describe(batch *proto.RequestBatch) *proto.RequestTexts {
	texts := &proto.RequestTexts{}
	frame := smr.Frame{Kind: smr.KindRequests, Count: int(batch.GetCount()), Body: batch.GetBody()}
	err := logtext.Requests(frame, func(r logtext.Request) error {
		if len(texts.Requests) == requestsShown {
			texts.Rest = fmt.Sprintf("and %d more", frame.Count-requestsShown)
			return errEnough
		}
		if r.Record { // of a user, it holds the hash of a password
			for _, words := range r.Commands {
				for i, word := range words {
					words[i] = hideHash(word)
				}
			}
		}
		texts.Requests = append(texts.Requests, r.Line())
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		texts.Rest = err.Error()
	}
	return texts
}

// hideHash shortens the hashes of passwords in the rules of a user.
func hideHash(rules string) string {
	words := strings.Split(rules, " ")
	for i, word := range words {
		words[i] = acl.Shown(word)
	}
	return strings.Join(words, " ")
}
