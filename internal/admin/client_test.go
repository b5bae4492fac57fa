package admin

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	"lockstep/proto"
)

// fakeConfmaster sends events, the same to everybody who follows.
type fakeConfmaster struct {
	proto.UnimplementedConfmasterServer
	events []*proto.Event
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
