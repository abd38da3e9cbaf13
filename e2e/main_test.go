// Package e2e_test drives the built binary with real Envoy, etcd and the published contracts, one file a subject.
package e2e_test

import (
	"testing"

	"github.com/mpegate/mpegate/e2e/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }
