package locate_test

import (
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"google.golang.org/grpc"

	"lockstep/internal/admin"
	"lockstep/internal/locate"
	"lockstep/proto"
)

// zone is a DNS server on a port of its own that knows SRV records.
type zone struct {
	mu      sync.Mutex
	records map[string][]dnsmessage.SRVResource // by their full name
}

func (z *zone) set(name string, records ...dnsmessage.SRVResource) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[name] = records
}

// serve answers until the test ends, and returns a resolver that asks nobody else.
func (z *zone) serve(t *testing.T) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 1024)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var query dnsmessage.Message
			if query.Unpack(buffer[:n]) != nil || len(query.Questions) != 1 {
				continue
			}
			if answer, err := z.answer(&query); err == nil {
				_, _ = conn.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

func (z *zone) answer(query *dnsmessage.Message) ([]byte, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	question := query.Questions[0]
	reply := dnsmessage.Message{Header: dnsmessage.Header{ID: query.ID, Response: true, Authoritative: true, RecursionAvailable: true}, Questions: query.Questions}
	records, known := z.records[question.Name.String()]
	if !known {
		reply.RCode = dnsmessage.RCodeNameError
	}
	for _, record := range records {
		if question.Type == dnsmessage.TypeSRV {
			reply.Answers = append(reply.Answers, dnsmessage.Resource{Header: dnsmessage.ResourceHeader{Name: question.Name, Type: dnsmessage.TypeSRV, Class: dnsmessage.ClassINET, TTL: 1}, Body: &record})
		}
	}
	return reply.Pack()
}

func srv(priority uint16, host string, port uint16) dnsmessage.SRVResource {
	return dnsmessage.SRVResource{Priority: priority, Weight: 1, Port: port, Target: dnsmessage.MustNewName(host)}
}

// What could go wrong: a record that leads somewhere else than it says, in another order than its priorities, more than once; one name that is not
// there takes the others with it, or is passed over in silence when it is the only one; a change of the record is not seen.
func TestAddressesOfSRVRecords(t *testing.T) {
	z := &zone{records: map[string][]dnsmessage.SRVResource{}}
	resolver := z.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const name = "srv://_lockstep._tcp.example.org"
	z.set("_lockstep._tcp.example.org.", srv(2, "cm2.example.org.", 7300), srv(1, "cm1.example.org.", 7301), srv(3, "cm3.example.org.", 7300))
	z.set("_away._tcp.example.org.", srv(0, ".", 0))
	for _, test := range []struct{ names, want []string }{
		{[]string{name}, []string{"cm1.example.org:7301", "cm2.example.org:7300", "cm3.example.org:7300"}},
		{[]string{name + "."}, []string{"cm1.example.org:7301", "cm2.example.org:7300", "cm3.example.org:7300"}},
		{[]string{"cm2.example.org:7300", name, "h:1"}, []string{"cm2.example.org:7300", "cm1.example.org:7301", "cm3.example.org:7300", "h:1"}},
		{[]string{"srv://_nothing._tcp.example.org", "h:1"}, []string{"h:1"}},
		{[]string{"h:1", "[::1]:2"}, []string{"h:1", "[::1]:2"}},
	} {
		if got, err := locate.Addresses(ctx, resolver, test.names); err != nil || !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, %v", test.names, got, err)
		}
	}
	for record, says := range map[string]string{"_nothing._tcp.example.org": "dig SRV _nothing._tcp.example.org", "_away._tcp.example.org": "is not offered there"} {
		if got, err := locate.Addresses(ctx, resolver, []string{locate.Scheme + record}); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), record) {
			t.Errorf("%s: %v, %v", record, got, err)
		}
	}
	z.set("_lockstep._tcp.example.org.", srv(0, "cm9.example.org.", 7300))
	if got, err := locate.Addresses(ctx, resolver, []string{name}); err != nil || !slices.Equal(got, []string{"cm9.example.org:7300"}) {
		t.Errorf("after the change: %v, %v", got, err)
	}
}

// A name that cannot be one is refused before anybody is asked, and the text says how one looks.
func TestNamesAreChecked(t *testing.T) {
	for _, good := range []string{"h:1", "cm1.example.org:7300", "[::1]:7300", "10.0.0.1:7300", "srv://_lockstep._tcp.example.org", "srv://_x._tcp.local."} {
		if err := locate.Check(good); err != nil {
			t.Errorf("%s: %v", good, err)
		}
	}
	for _, wrong := range []string{"", "h", "h:", ":1", "srv://", "srv://example.org", "srv://_lockstep.example.org", "srv://_a._tcp..org", "srv://_a._tcp.example.org:7300", "srv://_a._tcp.x/y", locate.Scheme + "_a._tcp." + strings.Repeat("x", 300)} {
		if err := locate.Check(wrong); err == nil || !strings.Contains(err.Error(), "srv://_SERVICE._tcp.DOMAIN") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
}

// named is a configuration master that tells its name as that of the cluster.
type named struct {
	proto.UnimplementedConfmasterServer
	name string
}

func (n *named) Status(context.Context, *proto.StatusRequest) (*proto.ClusterStatus, error) {
	return &proto.ClusterStatus{Cluster: n.name}, nil
}

// begin starts a configuration master and returns its record, and what ends it.
func (n *named) begin(t *testing.T) (dnsmessage.SRVResource, func()) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	proto.RegisterConfmasterServer(server, n)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	stop := sync.OnceFunc(func() { server.Stop(); <-done })
	t.Cleanup(stop)
	return srv(0, "localhost.", uint16(listener.Addr().(*net.TCPAddr).Port)), stop
}

// What could go wrong: a client that was begun with an SRV record goes on asking where the record led then, although nobody is there any more; it forgets
// whoever was there because DNS is away for a moment.
func TestClientFollowsTheRecord(t *testing.T) {
	z := &zone{records: map[string][]dnsmessage.SRVResource{}}
	client, err := admin.New([]string{"srv://_lockstep._tcp.example.org"}, admin.Login{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	client.Resolver = z.serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := client.Status(ctx); err == nil || !strings.Contains(err.Error(), "dig SRV") {
		t.Errorf("without a record: %v", err)
	}
	first, stop := (&named{name: "first"}).begin(t)
	z.set("_lockstep._tcp.example.org.", first)
	answers := func(want string) {
		t.Helper()
		for ctx.Err() == nil {
			if status, err := client.Status(ctx); err == nil && status.GetCluster() == want {
				return
			}
		}
		t.Fatalf("%s does not answer", want)
	}
	answers("first")
	z.set("_lockstep._tcp.example.org.") // nothing is there now: whoever answers is asked all the same
	answers("first")
	stop()
	if _, err := client.Status(ctx); err == nil {
		t.Error("somebody who is gone answers")
	}
	second, _ := (&named{name: "second"}).begin(t)
	z.set("_lockstep._tcp.example.org.", first, second)
	answers("second")
}
