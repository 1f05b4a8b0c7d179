-- connections_most: how many connections the server has for those who are no superusers
SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - current_setting('reserved_connections')::int;
