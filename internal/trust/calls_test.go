package trust

import (
	"context"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// guarded is a gRPC server that notes who called.
type guarded struct {
	healthpb.UnimplementedHealthServer
	mu     sync.Mutex
	caller Caller
}

func (g *guarded) Check(ctx context.Context, in *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	g.mu.Lock()
	g.caller = CallerOf(ctx)
	g.mu.Unlock()
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (g *guarded) Watch(in *healthpb.HealthCheckRequest, out grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	return out.Send(&healthpb.HealthCheckResponse{})
}

func startGuarded(t *testing.T, keeper *Keeper, roles ...Role) (*guarded, string, *journalOfDenied) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	denied := &journalOfDenied{}
	guard := Guard{Keeper: keeper, Methods: map[string][]Role{healthpb.Health_Check_FullMethodName: roles, healthpb.Health_Watch_FullMethodName: roles}, Denied: denied.note}
	server := grpc.NewServer(guard.Options()...)
	g := &guarded{}
	healthpb.RegisterHealthServer(server, g)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	return g, listener.Addr().String(), denied
}

type journalOfDenied struct {
	mu   sync.Mutex
	text []string
}

func (j *journalOfDenied) note(caller Caller, method, reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.text = append(j.text, caller.String()+" "+method+" "+reason)
}

func (j *journalOfDenied) count() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.text)
}

func ask(t *testing.T, ctx context.Context, address string, client *Keeper, wanted Wanted) error {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(client.Credentials(wanted)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err = healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	if stream, streamErr := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{}); streamErr == nil {
		if _, streamErr = stream.Recv(); (streamErr == nil) != (err == nil) {
			t.Errorf("a stream is answered %v, a call %v", streamErr, err)
		}
	}
	return err
}

// What could go wrong: a caller does what its role may not, or is refused what it may; the caller or the server's people are not told.
func TestCallsNeedTheirRole(t *testing.T) {
	home, foreign := newAuthority(t, "prod"), newAuthority(t, "other")
	server, _ := open(t, home.issue("c1", Request{Roles: []Role{Confmaster}, Name: "c1"}))
	g, address, denied := startGuarded(t, server, Operator, KVNode)
	c1 := Wanted{Confmaster, "c1"}
	for _, test := range []struct {
		role Role
		want string
	}{
		{Viewer, "viewer/x may not call Check: it needs the role operator or kvnode"}, {Operator, ""}, {Admin, ""}, {KVNode, ""},
		{Replicator, "may not call"}, {Confmaster, "may not call"}, {"", "carries no identity"},
	} {
		request := Request{Name: "x", Cluster: "prod"}
		if test.role != "" {
			request.Roles = []Role{test.role}
		}
		before := denied.count()
		client, _ := open(t, home.issue("x", request))
		err := ask(t, context.Background(), address, client, c1)
		if test.role == "" { // it does not know its own cluster, and gives up first
			if err == nil {
				t.Error("a certificate without identity is good for a call")
			}
			continue
		}
		if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.role, err, test.want)
		}
		if told := denied.count() > before; told != (test.want != "") {
			t.Errorf("%s: people were told: %v", test.role, told)
		}
	}
	operator, _ := open(t, home.issue("op", Request{Roles: []Role{Operator}, Name: "op"}))
	if err := ask(t, context.Background(), address, operator, c1); err != nil {
		t.Error(err)
	}
	if g.caller.String() == "" || !strings.HasPrefix(g.caller.String(), "operator/op from 127.0.0.1:") || !g.caller.May(Operator) || g.caller.May(Admin) {
		t.Errorf("the caller is %v", g.caller)
	}
	for name, test := range map[string]struct {
		client *Keeper
		wanted Wanted
		want   string
	}{
		"without TLS": {nil, c1, ""},
		"of another CA": {func() *Keeper {
			k, _ := open(t, foreign.issue("o", Request{Roles: []Role{Admin}, Name: "o"}))
			return k
		}(), c1, "not signed by a CA"},
		"another server": {operator, Wanted{Confmaster, "c2"}, "it should be confmaster/c2"},
	} {
		if err := ask(t, context.Background(), address, test.client, test.wanted); err == nil || !strings.Contains(status.Convert(err).Message(), test.want) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
		}
	}
}

// What could go wrong: a call that is passed on is carried out with the rights of the configuration master that passes it on, or
// anybody says that he passes something on.
func TestPassedOnCallsHaveTheRightsOfWhoAsked(t *testing.T) {
	home := newAuthority(t, "prod")
	server, _ := open(t, home.issue("c1", Request{Roles: []Role{Confmaster}, Name: "c1"}))
	g, address, _ := startGuarded(t, server, Operator)
	c1 := Wanted{Confmaster, "c1"}
	peer, _ := open(t, home.issue("c2", Request{Roles: []Role{Confmaster}, Name: "c2"}))
	for _, test := range []struct {
		role Role
		fine bool
	}{{Operator, true}, {Viewer, false}} {
		asked := Caller{Peer: Peer{[]Identity{{"prod", test.role, "bob"}}}, Addr: "10.0.0.9:1", Secure: true}
		ctx := PassOn(context.WithValue(context.Background(), callerKey{}, asked))
		if err := ask(t, ctx, address, peer, c1); (err == nil) != test.fine {
			t.Errorf("%s: %v", test.role, err)
		}
		liar, _ := open(t, home.issue("v", Request{Roles: []Role{Viewer}, Name: "v"}))
		if err := ask(t, ctx, address, liar, c1); err == nil {
			t.Errorf("a viewer passes on a call of %s", test.role)
		}
	}
	if g.caller.String() != "operator/bob from 10.0.0.9:1" {
		t.Errorf("it was asked for by %q", g.caller)
	}
	open, plain, _ := startGuarded(t, nil, Admin)
	ctx := PassOn(context.WithValue(context.Background(), callerKey{}, Caller{Addr: "10.0.0.9:1"}))
	if err := ask(t, ctx, plain, nil, c1); err != nil || open.caller.String() != "anybody from 10.0.0.9:1" {
		t.Errorf("without TLS: %v, %q", err, open.caller)
	}
}

// Whose certificate is refused is told so, however soon it writes and finds the connection closed.
func TestWritingTellsThatTheCertificateIsRefused(t *testing.T) {
	home, foreign := newAuthority(t, "prod"), newAuthority(t, "prod")
	server, _ := open(t, home.issue("n1", Request{Roles: []Role{Replicator}, Name: "n1"}))
	stranger := foreign.issue("n2", Request{Roles: []Role{Admin}, Name: "n2"})
	client, _ := open(t, Files{CA: home.issue("any", Request{Name: "any"}).CA, Cert: stranger.Cert, Key: stranger.Key})
	_, address, _ := startGuarded(t, server, Admin)
	raw, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	conn, _, err := client.Credentials(Wanted{Role: Replicator}).ClientHandshake(t.Context(), "", raw)
	for err == nil { // until the peer has hung up
		_, err = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
	}
	if !IsTrust(err) || !strings.Contains(err.Error(), "the peer refuses our certificate") {
		t.Fatalf("it says: %v", err)
	}
}
