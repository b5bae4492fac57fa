package admin

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/proto"
)

// fakeConfmaster sends events, the same to everybody who follows.
type fakeConfmaster struct {
	proto.UnimplementedConfmasterServer
	events []*proto.Event
	change error // of Change
	asked  int   // so often
}

func (f *fakeConfmaster) Events(in *proto.EventsRequest, out grpc.ServerStreamingServer[proto.Event]) error {
	for _, e := range f.events {
		if e.GetId() == 0 || e.GetId() > in.GetAfter() {
			if err := out.Send(e); err != nil {
				return err
			}
		}
	}
	<-out.Context().Done()
	return nil
}

// What could go wrong: what a configuration master has observed (a process that was restarted, a slave that streams) has no number and
// is dropped, or a decision is told twice.
func TestEventsWithoutNumberAreTold(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	proto.RegisterConfmasterServer(server, &fakeConfmaster{events: []*proto.Event{
		{Id: 7, Name: "election-begun"}, {Name: "restarted"}, {Id: 7, Name: "election-begun"}, {Id: 8, Name: "established"}, {Name: "joined"},
	}})
	go server.Serve(listener)
	defer server.Stop()
	client, err := New([]string{listener.Addr().String()}, Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var names []string
	_ = client.Events(ctx, "", 0, func(e *proto.Event) { // it ends with ctx only
		if names = append(names, e.GetName()); e.GetName() == "joined" {
			cancel()
		}
	})
	want := []string{"election-begun", "restarted", "established", "joined"}
	if len(names) != len(want) {
		t.Fatalf("told: %v, want %v", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Errorf("told: %v, want %v", names, want)
		}
	}
}

func (f *fakeConfmaster) Change(context.Context, *proto.ChangeRequest) (*proto.ChangePlan, error) {
	f.asked++
	return &proto.ChangePlan{}, f.change
}

// What could go wrong: a leader that is deposed does not know what becomes of a change, the next one has carried it out and refuses the repetition, and the operator hears
// that it was refused.
func TestRefusalBehindAnUnsureAnswerIsNone(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		first, second  error
		asked          int // of the second
		unsure, failed bool
	}{
		{"unsure, then refused", status.Error(codes.Unknown, "leads no longer"), status.Error(codes.FailedPrecondition, "n1 is no replica"), 1, true, true},
		{"unsure, then overtaken", status.Error(codes.Unknown, "leads no longer"), status.Error(codes.Aborted, "version 4"), 1, true, true},
		{"unsure, then done", status.Error(codes.Unknown, "leads no longer"), nil, 1, false, false},
		{"away, then refused", status.Error(codes.Unavailable, "no leader"), status.Error(codes.FailedPrecondition, "n1 is no replica"), 1, false, true},
		{"refused", status.Error(codes.FailedPrecondition, "n1 is no replica"), nil, 0, false, true},
	} {
		var addresses []string
		fakes := []*fakeConfmaster{{change: test.first}, {change: test.second}}
		for _, fake := range fakes {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			proto.RegisterConfmasterServer(server, fake)
			go server.Serve(listener)
			defer server.Stop()
			addresses = append(addresses, listener.Addr().String())
		}
		client, err := New(addresses, Login{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Change(context.Background(), &proto.ChangeRequest{})
		if unsure := errors.Is(err, ErrNoAnswer); (err != nil) != test.failed || unsure != test.unsure || fakes[1].asked != test.asked {
			t.Errorf("%s: %v, the second was asked %d times", test.name, err, fakes[1].asked)
		}
		client.Close()
	}
}
