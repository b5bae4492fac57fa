package daemon

import (
	"errors"
	"fmt"
	"log/slog"
	"net"

	"lockstep/internal/trust"
)

// checkTLS reports problems of the flags on TLS, and ports that anybody could reach.
func (p *Program) checkTLS() error {
	var problems []error
	if err := p.common.files.Check("tls-"); err != nil {
		problems = append(problems, err)
	}
	switch p.common.httpTLS {
	case "off":
	case "on", "mutual":
		if !p.common.files.Given() || p.common.http == "" {
			problems = append(problems, fmt.Errorf("http-tls %s: it needs --http, --tls-cert, --tls-key and --tls-ca", p.common.httpTLS))
		}
	default:
		problems = append(problems, fmt.Errorf("http-tls %q: use off, on or mutual", p.common.httpTLS))
	}
	if p.common.files.Given() && p.common.insecure {
		problems = append(problems, errors.New("insecure: with --tls-cert no inner port is without TLS: leave it away"))
	}
	if !p.common.files.Given() && !p.common.insecure && p.Inner != nil {
		for _, port := range p.Inner() {
			if exposed(port.Addr) {
				problems = append(problems, fmt.Errorf("%s %s: other hosts may reach it, and without TLS whoever does can read and change everything:"+
					" give --tls-cert, --tls-key and --tls-ca (`smrctl cert` makes them), or say --insecure where the network is closed to others", port.Flag, port.Addr))
			}
		}
	}
	return errors.Join(problems...)
}

// exposed reports whether others than this host may reach an address.
func exposed(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil || host == "localhost" {
		return false // a broken address is told by Check
	}
	ip := net.ParseIP(host)
	return ip == nil || !ip.IsLoopback()
}

// openKeeper reads the certificate, which must be that of this process.
func (p *Program) openKeeper(logger *slog.Logger) error {
	if !p.common.files.Given() {
		return nil
	}
	keeper, err := trust.Open(p.common.files, logger.With(p.Labels()...))
	if err != nil {
		return err
	}
	if p.Identity != nil {
		if err := keeper.Is(p.Identity()); err != nil {
			return err
		}
	}
	p.Keeper = keeper
	return nil
}
