package ctl

import (
	"crypto/sha256"
	"encoding/json"
	"net"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc"

	"lockstep/proto"
)

// fakeLog is a replicator that answers digests of some bytes.
type fakeLog struct {
	proto.UnimplementedReplicatorServer
	stream []byte
}

func (f *fakeLog) Digests(in *proto.DigestsRequest, out grpc.ServerStreamingServer[proto.RangeDigest]) error {
	for at := in.GetFrom(); at < in.GetEnd(); {
		end := min(at+uint64(in.GetStep()), in.GetEnd())
		sum := sha256.Sum256(f.stream[at:end])
		if err := out.Send(&proto.RangeDigest{From: at, End: end, Sha256: sum[:]}); err != nil {
			return err
		}
		at = end
	}
	return nil
}

// What could go wrong: replicas that differ are called equal, the first difference is not the first, or what only one of them holds
// counts as one.
func TestReplicasAreComparedToTheByte(t *testing.T) {
	stream := make([]byte, 3<<20)
	for i := range stream {
		stream[i] = byte(i * i >> 7)
	}
	for _, wrong := range [][]uint64{nil, {0}, {1_234_567}, {1<<20 - 1, 2 << 20}, {2_999_999}, {3_000_000}} {
		cluster := example()
		group := cluster.Groups[0]
		for i, r := range group.Replicas {
			held := slices.Clone(stream)
			if i == 1 {
				for _, lsn := range wrong {
					held[lsn] ^= 1
				}
			}
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			proto.RegisterReplicatorServer(server, &fakeLog{stream: held})
			go server.Serve(listener)
			t.Cleanup(server.Stop)
			r.ManageAddr, r.State.Start, r.State.Commit, r.State.Durable = listener.Addr().String(), 0, 3_000_000+uint64(i), 3_000_500
		}
		addr := serve(t, &confmaster{cluster: cluster})
		stdout, stderr, code := run(t, "log", "compare", "--confmaster", addr, "-o", "json", "--last", "0")
		var got logComparison
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || got.End != 3_000_000 || !strings.Contains(stderr, "n3 is down and left out") {
			t.Fatalf("%v: %v\n%s%s", wrong, err, stdout, stderr)
		}
		if len(wrong) == 0 || wrong[0] >= 3_000_000 {
			if code != exitDone || !got.Equal || got.First != nil {
				t.Errorf("%v: exit code %d\n%s", wrong, code, stdout)
			}
			continue
		}
		if code != exitFound || got.Equal || got.First.LSN != wrong[0] || !got.First.Committed || !slices.Equal(got.First.Between, []string{"n1", "n2"}) {
			t.Errorf("%v: exit code %d\n%s", wrong, code, stdout)
		}
	}
	one := example()
	one.Groups[0].Replicas = one.Groups[0].Replicas[:1]
	if _, stderr, code := run(t, "log", "compare", "--confmaster", serve(t, &confmaster{cluster: one})); code != exitFailed || !strings.Contains(stderr, "two are needed") {
		t.Errorf("one replica: exit code %d, %s", code, stderr)
	}
}
