package trust

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Credentials returns what a gRPC client needs to call w; without TLS if k is nil.
func (k *Keeper) Credentials(w Wanted) credentials.TransportCredentials {
	if k == nil {
		return insecure.NewCredentials()
	}
	return &transport{TransportCredentials: credentials.NewTLS(k.server()), keeper: k, wanted: w}
}

// lastWord is how long a peer that has hung up may take to have said why.
const lastWord = 100 * time.Millisecond

// transport makes its configuration for each connection, from the newest files, and says why a handshake fails.
type transport struct {
	credentials.TransportCredentials
	keeper *Keeper
	wanted Wanted
}

// ClientHandshake implements credentials.TransportCredentials.
func (t *transport) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := credentials.NewTLS(t.keeper.client(t.wanted)).ClientHandshake(ctx, authority, raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s at %s: %w", t.wanted, raw.RemoteAddr(), Explain(err))
	}
	return &explained{conn}, info, nil
}

// ServerHandshake implements credentials.TransportCredentials.
func (t *transport) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := t.TransportCredentials.ServerHandshake(raw)
	if err != nil {
		err = Explain(err)
		if IsTrust(err) {
			t.keeper.complaints.note(raw.RemoteAddr(), err)
		}
		return nil, nil, err
	}
	return conn, info, nil
}

// Clone implements credentials.TransportCredentials.
func (t *transport) Clone() credentials.TransportCredentials {
	return &transport{TransportCredentials: t.TransportCredentials.Clone(), keeper: t.keeper, wanted: t.wanted}
}

// explained is a client's connection: that the server refuses the certificate is heard only behind the handshake.
type explained struct{ net.Conn }

func (c *explained) Read(b []byte) (int, error) {
	return explainedRead(c.Conn, b)
}

// Write says why the peer has hung up, if it has said so: in TLS 1.3 its no to our certificate comes behind the handshake, and what is written then
// finds a closed connection.
func (c *explained) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err == nil || c.Conn.SetReadDeadline(time.Now().Add(lastWord)) != nil {
		return n, err
	}
	if _, why := c.Conn.Read(make([]byte, 1)); IsTrust(Explain(why)) { // what it would take away nobody can use any more
		return n, Explain(why)
	}
	return n, err
}

// Caller is who makes a management call.
type Caller struct {
	Peer   Peer
	Addr   string // where it calls from, "" if that is not known
	Secure bool   // Peer was proved; otherwise there is no TLS, and everybody may do everything
	For    string // who asked for it, if a configuration master passes the call on
}

// String names the caller for people.
func (c Caller) String() string {
	switch {
	case c.For != "":
		return c.For
	case c.Secure:
		return c.Peer.String() + " from " + c.Addr
	}
	return "anybody from " + c.Addr
}

// May reports whether the caller has one of the roles, or one that covers it. Without TLS everybody has.
func (c Caller) May(roles ...Role) bool {
	if !c.Secure {
		return true
	}
	for _, id := range c.Peer.identities {
		for _, role := range roles {
			if id.Role.Covers(role) {
				return true
			}
		}
	}
	return false
}

// Is reports whether the caller is who is wanted. Without TLS everybody is.
func (c Caller) Is(w Wanted) bool {
	_, found := c.Peer.As(w)
	return found || !c.Secure
}

// callerKey is the key of the Caller in a context.
type callerKey struct{}

// CallerOf returns who makes the call that ctx belongs to.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithCaller returns a context for what a caller asks for by another way than gRPC.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Visitor is somebody who looks at the web page and has not said who he is: he may look.
func Visitor(cluster, addr string) Caller {
	return Caller{Peer: Peer{identities: []Identity{{Cluster: cluster, Role: Viewer, Name: "web"}}}, Addr: addr, Secure: true}
}

// ClientCaller is who is at the other end of a connection of a Redis client: where inner connections have TLS, a client without an
// identity may do nothing.
func (k *Keeper) ClientCaller(conn net.Conn) Caller {
	c := Caller{Addr: conn.RemoteAddr().String(), Secure: k != nil}
	if secured, ok := conn.(*ClientConn); ok && k != nil {
		if peer, err := k.PeerOf(secured.ConnectionState()); err == nil {
			c.Peer = peer
		}
	}
	return c
}

const (
	// forHeader names who asked for a call that a configuration master passes on, rolesHeader with which roles.
	forHeader, rolesHeader = "lockstep-for", "lockstep-roles"
	// maxFor bounds forHeader, in bytes.
	maxFor = 256
)

// PassOn returns a context for a call to another configuration master on behalf of the caller of ctx.
func PassOn(ctx context.Context) context.Context {
	c := CallerOf(ctx)
	var roles []string
	for _, id := range c.Peer.identities {
		roles = append(roles, id.short())
	}
	return metadata.AppendToOutgoingContext(ctx, forHeader, c.String(), rolesHeader, strings.Join(roles, ","))
}

// Guard says who may make which call of a gRPC server.
type Guard struct {
	Keeper *Keeper
	// Methods are the roles of those who may call, by the full name of the method ("/lockstep.v1.Replicator/Fence"). Health and
	// reflection may be asked by everybody of the cluster; whatever else is not here is for an admin.
	Methods map[string][]Role
	// Denied, if set, is told of calls that were refused.
	Denied func(caller Caller, method, reason string)
}

// Options are those of a server that is guarded.
func (g *Guard) Options() []grpc.ServerOption {
	options := []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, in any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			ctx, err := g.admit(ctx, info.FullMethod)
			if err != nil {
				return nil, err
			}
			return handle(ctx, in)
		}),
		grpc.ChainStreamInterceptor(func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			ctx, err := g.admit(stream.Context(), info.FullMethod)
			if err != nil {
				return err
			}
			return handle(server, &admitted{stream, ctx})
		}),
	}
	if g.Keeper != nil {
		options = append(options, grpc.Creds(g.Keeper.Credentials(Wanted{})))
	}
	return options
}

// admitted is a stream whose context knows the caller.
type admitted struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *admitted) Context() context.Context { return s.ctx }

// admit finds out who calls, and refuses who may not.
func (g *Guard) admit(ctx context.Context, method string) (context.Context, error) {
	var caller Caller
	info, known := grpcpeer.FromContext(ctx)
	if known && info.Addr != nil {
		caller.Addr = info.Addr.String()
	}
	if g.Keeper == nil {
		g.passedOn(ctx, &caller)
		return context.WithValue(ctx, callerKey{}, caller), nil
	}
	refuse := func(code codes.Code, reason string) (context.Context, error) {
		if g.Denied != nil {
			g.Denied(caller, method, reason)
		}
		return ctx, status.Error(code, reason)
	}
	secured, ok := credentials.TLSInfo{}, false
	if known {
		secured, ok = info.AuthInfo.(credentials.TLSInfo)
	}
	if !ok {
		return refuse(codes.Unauthenticated, "this port speaks TLS only")
	}
	peer, err := g.Keeper.PeerOf(secured.State)
	if err != nil {
		return refuse(codes.PermissionDenied, "the caller is refused: "+err.Error())
	}
	caller.Peer, caller.Secure = peer, true
	if _, is := peer.As(Wanted{Role: Confmaster}); is {
		g.passedOn(ctx, &caller)
	}
	roles, listed := g.Methods[method]
	if !listed {
		roles = []Role{Admin}
	}
	if (listed || !strings.HasPrefix(method, "/grpc.")) && !caller.May(roles...) {
		return refuse(codes.PermissionDenied, fmt.Sprintf("%s may not call %s: it needs the role %s", caller.Peer, method[strings.LastIndex(method, "/")+1:], rolesText(roles)))
	}
	return context.WithValue(ctx, callerKey{}, caller), nil
}

// passedOn takes over on whose behalf a configuration master calls: its roles count, not those of the configuration master.
func (g *Guard) passedOn(ctx context.Context, caller *Caller) {
	header, _ := metadata.FromIncomingContext(ctx)
	if values := header.Get(forHeader); len(values) == 1 && len(values[0]) <= maxFor {
		caller.For = values[0]
		if !caller.Secure {
			return
		}
		caller.Peer = Peer{}
		for _, text := range header.Get(rolesHeader) {
			for part := range strings.SplitSeq(text, ",") {
				role, name, _ := strings.Cut(part, "/")
				if id := (Identity{g.Keeper.Cluster(), Role(role), name}); id.Check() == nil {
					caller.Peer.identities = append(caller.Peer.identities, id)
				}
			}
		}
	}
}

func rolesText(roles []Role) string {
	var names []string
	for _, role := range roles {
		names = append(names, string(role))
	}
	return strings.Join(names, " or ")
}
