package process

import (
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/mpegate/mpegate/blockchain"
	"github.com/mpegate/mpegate/channelstate"
	"github.com/mpegate/mpegate/deploy/desk"
)

// openDesk lets the provider's commands ask this process for its books, at the admin listener.
func (p *process) openDesk(client *blockchain.Client, parts *payments) error {
	chain, err := desk.NewChain(parts.metadata.Current().Service.MPE, client)
	if err != nil {
		return fmt.Errorf("%s: %w", partChain, err)
	}
	books := &desk.Local{Store: parts.state.Store, Ledger: parts.ledger, OnChain: chain, Free: parts.free}
	books.Current = func() (desk.Terms, error) {
		metadata := parts.metadata.Current()
		if metadata == nil {
			return desk.Terms{}, errors.New("the metadata is not loaded yet")
		}
		return desk.TermsOf(metadata, &p.settings.Metadata, p.settings.Blockchain.ChainID), nil
	}
	books.OnStart = func(claims []channelstate.Claim) {
		p.logger.Info("claims were started", zap.Int("channels", len(claims)))
	}
	p.desk.Store(&desk.Server{Books: books, Head: parts.head.Refresh, Safe: p.redactor.Text})
	return nil
}

func (p *process) serveDesk(writer http.ResponseWriter, request *http.Request) {
	server := p.desk.Load()
	if server == nil {
		http.Error(writer, "there are no books: the channel state is not open yet, or blockchain.enabled is false", http.StatusServiceUnavailable)
		return
	}
	server.ServeHTTP(writer, request)
}
