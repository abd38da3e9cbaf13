package sample

import (
	"net"
	"sync"
)

// connections remembers the open TCP connections by the caller's address,
// because gRPC gives a handler no way to cut the connection it serves.
type connections struct {
	mutex sync.Mutex
	open  map[string]*net.TCPConn
}

// reset cuts the connection from an address. What was written to it and not
// read yet may be lost, as when a process dies.
func (c *connections) reset(from net.Addr) bool {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	connection, ok := c.open[from.String()]
	if !ok {
		return false
	}
	_ = connection.SetLinger(0) // without it the cut is a plain close, which serves as well
	return connection.Close() == nil
}

func (c *connections) remember(connection *net.TCPConn) net.Conn {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.open == nil {
		c.open = map[string]*net.TCPConn{}
	}
	c.open[connection.RemoteAddr().String()] = connection
	return rememberedConnection{Conn: connection, connections: c}
}

type rememberingListener struct {
	net.Listener
	connections *connections
}

func (l rememberingListener) Accept() (net.Conn, error) {
	connection, err := l.Listener.Accept()
	if tcp, ok := connection.(*net.TCPConn); ok && err == nil {
		return l.connections.remember(tcp), nil
	}
	return connection, err
}

type rememberedConnection struct {
	net.Conn
	connections *connections
}

func (c rememberedConnection) Close() error {
	c.connections.mutex.Lock()
	defer c.connections.mutex.Unlock()
	delete(c.connections.open, c.RemoteAddr().String())
	return c.Conn.Close()
}
