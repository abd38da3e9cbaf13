// Package translator makes one gRPC call out of what a service that is not gRPC does: an HTTP+JSON server, a JSON-RPC
// 2.0 server, or a program that is started for each call. It is an ext_proc server of Envoy
// (envoy.service.ext_proc.v3): Envoy keeps the client's connection and makes the request to the service, the
// translator turns messages of one side into those of the other. It knows no payments.
//
// testdata/envoy.yaml shows, with comments, what Envoy needs for it.
package translator
