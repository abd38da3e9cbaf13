package storetest

import (
	"reflect"
	"testing"

	"github.com/holiman/uint256"

	"github.com/mpegate/mpegate/channelstate"
)

func testLists(t *testing.T, store channelstate.Store) {
	huge := new(uint256.Int).SetAllOne()
	ids := []uint256.Int{amount(0), amount(2), amount(10), amount(9999999999), amount(1e18), *huge}
	for i := range ids {
		claims := []channelstate.Claim{{Channel: ids[i], Nonce: amount(1), Sender: sender}, {Channel: ids[i], Nonce: amount(10), Sender: sender}}
		commit(t, store, &channelstate.Transaction{
			Key: group.Key(&ids[i]), Record: recordOf(uint64(i)), Claims: claims,
			Asides: []channelstate.Aside{{Channel: ids[i], Record: recordOf(uint64(i))}},
		}, true)
	}
	for _, limit := range []int{-1, 1, 2, 3, 6, 100, 1 << 30} {
		channels := collect(t, limit, func(cursor string) ([]channelstate.ChannelRecord, string, error) {
			return store.Channels(t.Context(), group, cursor, limit)
		})
		claims := collect(t, limit, func(cursor string) ([]channelstate.Claim, string, error) {
			return store.Claims(t.Context(), group, cursor, limit)
		})
		asides := collect(t, limit, func(cursor string) ([]channelstate.Aside, string, error) {
			return store.Asides(t.Context(), group, cursor, limit)
		})
		if len(channels) != len(ids) || len(claims) != 2*len(ids) || len(asides) != len(ids) {
			t.Fatalf("limit %d: listed %d channels, %d claims, %d asides", limit, len(channels), len(claims), len(asides))
		}
		for i := range ids { // the last, longer than keys are padded for, comes last as well
			if channels[i].Channel != ids[i] || !reflect.DeepEqual(channels[i].Record, recordOf(uint64(i))) {
				t.Fatalf("limit %d: channel %d is %s", limit, i, channels[i].Channel.Dec())
			}
			if claims[2*i].Channel != ids[i] || claims[2*i].Nonce != amount(1) || claims[2*i+1].Nonce != amount(10) {
				t.Fatalf("limit %d: claims of channel %s are %+v", limit, ids[i].Dec(), claims[2*i:2*i+2])
			}
		}
	}
}

// collect reads all pages of a list.
func collect[T any](t *testing.T, limit int, read func(cursor string) ([]T, string, error)) (all []T) {
	t.Helper()
	cursor := ""
	for range 100 {
		page, next, err := read(cursor)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) > max(limit, 1) {
			t.Fatalf("a page has %d entries, the limit is %d", len(page), limit)
		}
		all = append(all, page...)
		if next == "" {
			return all
		}
		cursor = next
	}
	t.Fatal("the list does not end")
	return nil
}
