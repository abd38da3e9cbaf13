package desk

import (
	"context"
	"errors"
	"fmt"

	"github.com/ethereum/go-ethereum/common"

	"github.com/mpegate/mpegate/channelstate"
)

// FreeCaller is who has made free calls of a service.
type FreeCaller struct {
	Organization string         `json:"organization"`
	Service      string         `json:"service"`
	Address      common.Address `json:"address"`
	User         string         `json:"user,omitempty"` // named by a trusted signer
	Used         uint64         `json:"used"`           // calls
}

// FreeCounters forget free calls. channelstate.FreeCalls are such.
type FreeCounters interface {
	Reset(ctx context.Context, user channelstate.FreeCallUser) error
}

var errNoFreeCalls = errors.New("free calls cannot be asked for here")

// FreeCallers lists a page of who has made free calls.
func (l *Local) FreeCallers(ctx context.Context, cursor string) ([]FreeCaller, string, error) {
	terms, err := l.Current()
	if err != nil {
		return nil, "", err
	}
	store, known := l.Store.(channelstate.FreeCallStore)
	if !known {
		return nil, "", errNoFreeCalls
	}
	entries, next, err := store.FreeCallUsers(ctx, terms.group(), cursor, pageSize)
	if err != nil {
		return nil, "", err
	}
	page := make([]FreeCaller, 0, len(entries))
	for i := range entries {
		user := &entries[i].User
		page = append(page, FreeCaller{
			Organization: user.OrganizationID, Service: user.ServiceID, Address: user.Address, User: user.UserID, Used: entries[i].Used,
		})
	}
	return page, next, nil
}

// ResetFreeCalls lets a user begin again.
func (l *Local) ResetFreeCalls(ctx context.Context, caller *FreeCaller) error {
	terms, err := l.Current()
	if err != nil {
		return err
	}
	if l.Free == nil {
		return errNoFreeCalls
	}
	return l.Free.Reset(ctx, channelstate.FreeCallUser{
		Group: terms.group(), OrganizationID: caller.Organization, ServiceID: caller.Service, Address: caller.Address, UserID: caller.User,
	})
}

// FreeCallers lists a page of who has made free calls.
func (r *Remote) FreeCallers(ctx context.Context, cursor string) ([]FreeCaller, string, error) {
	answer, err := r.ask(ctx, askFreeCallers, &request{Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	return answer.FreeCallers, answer.Next, nil
}

// ResetFreeCalls lets a user begin again.
func (r *Remote) ResetFreeCalls(ctx context.Context, caller *FreeCaller) error {
	_, err := r.ask(ctx, askResetFreeCalls, &request{FreeCaller: caller})
	return err
}

// FreeCallers are all who have made free calls of a service.
func (d *Desk) FreeCallers(ctx context.Context, organization, service string) ([]FreeCaller, error) {
	return everything(ctx, d.Books.FreeCallers, func(caller *FreeCaller) bool {
		return caller.Organization == organization && caller.Service == service
	})
}

// ResetFreeCalls forgets the calls of everybody who is listed.
func (d *Desk) ResetFreeCalls(ctx context.Context, callers []FreeCaller) error {
	for i := range callers {
		if err := d.Books.ResetFreeCalls(ctx, &callers[i]); err != nil {
			return fmt.Errorf("%d of %d were reset: %w", i, len(callers), err)
		}
	}
	return nil
}
