// Package channelstate keeps what each payment channel has signed and spent.
//
// The rules are pure functions of a Record (record.go, window.go, claim.go).
// A Store keeps records and moves each by one atomic transaction (store.go;
// memory.go and etcd.go are the two stores). The Ledger puts both together: it
// charges, refunds and starts claims, and merges the calls that wait on one
// channel into one transaction.
package channelstate
