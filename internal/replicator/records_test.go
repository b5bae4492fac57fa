package replicator

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
	"lockstep/smr"
)

// What could go wrong: a page of the log lacks a frame or shows one twice, begins in the middle of one, or shows what clients wrote to who did not
// ask. Pages are turned forwards and backwards, across log files, and held against all frames as the log files have them.
func TestRecordsArePages(t *testing.T) {
	nodes, kvs, c := startThree(t)
	master := c.elect(nodes...)
	client, err := dialClient(master, 42)
	if err != nil {
		t.Fatal(err)
	}
	defer client.conn.Close()
	const requests = 600
	for sequence := uint64(1); sequence <= requests; sequence += 2 {
		if err := client.propose(sequence, sequence+1, bytes.Repeat([]byte("v"), 1500)); err != nil {
			t.Fatal(err)
		}
	}
	if err := kvs[0].awaitExecuted(42, requests); err != nil {
		t.Fatal(err)
	}
	state := master.state()
	end := state.GetCommit()
	all := framesBelow(t, master, smr.LSN(end))
	ask := func(in *proto.RecordsRequest) (*proto.RecordsReply, error) {
		in.Target = master.target()
		return master.manage.Records(context.Background(), in)
	}
	page := func(in *proto.RecordsRequest) []uint64 {
		t.Helper()
		reply, err := ask(in)
		if err != nil {
			t.Fatal(err)
		}
		var lsns []uint64
		bytes := 0
		for _, record := range reply.GetRecords() {
			fits := bytes+int(record.GetSize()) <= maxBodies // it may be left out of a page that is too long for it
			if got := len(record.GetBody()) > 0; record.GetKind() == smr.KindRequests.String() && got != in.GetBodies() && (got || fits) {
				t.Errorf("frame at %d has %d bytes of a body", record.GetLsn(), len(record.GetBody()))
			}
			bytes += len(record.GetBody())
			if record.GetLsn() < end {
				lsns = append(lsns, record.GetLsn())
			}
		}
		return lsns
	}
	for _, count := range []int{1, 7, 200} {
		var forwards, backwards []uint64
		for from := uint64(0); from < end; {
			lsns := page(&proto.RecordsRequest{From: from, Count: uint32(count), Bodies: count == 7})
			if len(lsns) == 0 {
				break
			}
			forwards = append(forwards, lsns...)
			from = lsns[len(lsns)-1] + 1 // in the middle of the frame: the next one begins behind it
		}
		for before := end; before > 0; {
			lsns := page(&proto.RecordsRequest{Before: before, Count: uint32(count), Bodies: count == 7})
			if len(lsns) == 0 {
				break
			}
			backwards = append(lsns, backwards...)
			before = lsns[0]
		}
		if !slices.Equal(forwards, all) || !slices.Equal(backwards, all) {
			t.Errorf("pages of %d: %d frames forwards, %d backwards, and the log has %d", count, len(forwards), len(backwards), len(all))
		}
	}
	for _, in := range []*proto.RecordsRequest{{}, {Count: maxRecords + 1}} {
		if _, err := ask(in); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%v: %v", in, err)
		}
	}
	if reply, err := ask(&proto.RecordsRequest{From: 1 << 60, Count: 5}); err != nil || len(reply.GetRecords()) != 0 {
		t.Errorf("behind the end: %v, %v", reply.GetRecords(), err)
	}
	if reply, err := ask(&proto.RecordsRequest{Before: 1, Count: 5}); err != nil || len(reply.GetRecords()) != 1 || reply.GetRecords()[0].GetKind() != "epoch-start" {
		t.Errorf("the first: %v, %v", reply.GetRecords(), err)
	}
}

// framesBelow lists where the frames of a log begin, read by one walk over its files.
func framesBelow(t *testing.T, x *tester, end smr.LSN) []uint64 {
	t.Helper()
	content := logBytes(t, x.cfg.Dir, end)
	var lsns []uint64
	for at := 0; at < len(content); {
		f, err := smr.DecodeFrame(content[at:], smr.LSN(at))
		if err != nil {
			t.Fatal(fmt.Errorf("at %d: %w", at, err))
		}
		lsns = append(lsns, uint64(at))
		at += f.Size()
	}
	return lsns
}
