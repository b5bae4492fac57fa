package confmaster

import (
	"context"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"lockstep/internal/trust"
	"lockstep/internal/web"
	lockstep "lockstep/proto"
)

// newWeb returns the web page, nil if there is none.
func (n *node) newWeb(s *service) *web.Server {
	page := n.config.page()
	if page == "" {
		return nil
	}
	hosts := make([]string, 0, 2)
	for _, addr := range []string{n.config.Observer.Address, n.config.self().Addr} {
		if host, _, err := net.SplitHostPort(addr); err == nil {
			hosts = append(hosts, host)
		}
	}
	return web.New(web.Config{
		Cluster: n.config.Cluster, Self: n.config.ID, Masters: s, Drills: n.config.Drills, Keeper: n.config.Keeper,
		Dial:   func(addr string, who trust.Wanted) (*grpc.ClientConn, error) { return s.conns.get(remote{addr, who}) },
		URL:    page,
		Secure: n.config.Observer.Secure, Hosts: hosts, Logger: n.logger,
	})
}

// page is where browsers find the web page, "" if there is none. Where the port is open to all addresses of this machine it is named as
// peers name it.
func (c *Config) page() string {
	if !c.Web || c.Observer == nil || c.Observer.Address == "" {
		return ""
	}
	host, port, err := net.SplitHostPort(c.Observer.Address)
	if err != nil {
		return ""
	}
	if own, _, err := net.SplitHostPort(c.self().Addr); err == nil && isWildcard(host) {
		host = own
	}
	scheme := "http://"
	if c.Observer.Secure {
		scheme = "https://"
	}
	return scheme + net.JoinHostPort(host, port) + "/"
}

// OpenWeb lets the caller log in at the web page of this configuration master.
func (s *service) OpenWeb(ctx context.Context, _ *lockstep.OpenWebRequest) (*lockstep.OpenWebReply, error) {
	if s.web == nil {
		return nil, status.Error(codes.FailedPrecondition, "this configuration master shows no web page: start it with --http HOST:PORT (and not with --web=false)")
	}
	reply, err := s.web.Invite(trust.CallerOf(ctx))
	if err == nil {
		s.node.logger.Info("audit", "who", trust.CallerOf(ctx).String(), "what", "ask for a code of the web page", "outcome", "done")
	}
	return reply, err
}
