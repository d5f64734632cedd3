"""`@serve.ingress`: ASGI applications of every kind, and what it refuses."""

import pytest

import swerve as serve
from tests.conftest import wait_for


def test_routes_may_be_methods_of_the_class(client):
    assert client.get("/shop/total/3?value=4").json() == {"total": 15, "value": 8}


def test_arguments_of_a_method_are_checked(client):
    assert client.get("/shop/total/many").status_code == 422


def test_bodies_are_parsed(client):
    assert client.post("/shop/items", json=[1, 2, 3]).json() == 6


def test_methods_may_be_routes_of_an_included_router(client):
    assert client.get("/shop/sub/inner").json() == 5


def test_functions_are_routes_too_and_the_lifespan_has_run(client, web):
    assert client.get("/shop/free").json() == {"started": True, "color": "blue", "url": f"{web.url}/shop/free"}


def test_the_documentation_is_served_below_the_prefix(client):
    paths = client.get("/shop/openapi.json").json()["paths"]
    assert {"/free", "/total/{count}", "/sub/inner"} <= paths.keys()
    names = [item["name"] for item in paths["/total/{count}"]["get"]["parameters"]]
    assert names == ["count", "value"]


def test_an_exception_in_a_route_gives_500_and_a_traceback_in_the_log(client, web):
    answer = client.get("/shop/raise", headers={"x-request-id": "shop-failed"})
    assert (answer.status_code, answer.text) == (500, "Internal Server Error")
    wait_for(lambda: "shop-failed -- The request failed:\nTraceback" in web.log("replica_shop"))


def test_background_work_goes_on_after_the_response(client, tmp_path):
    note = tmp_path / "note"
    assert client.get("/shop/after", params={"path": str(note)}).text == "before"
    wait_for(note.exists)


def test_an_application_without_lifespan(client):
    answer = client.get("/bare/some/path")
    assert answer.text == "/bare/some/path"
    assert answer.headers.get_list("x-a") == ["1", "2"]


def test_a_function_may_build_the_application(client):
    assert client.get("/built/").json() == "built"


def test_the_instance_may_build_the_application(client):
    assert client.get("/selfbuilt/").json() == "mine"


def test_ingress_refuses_what_is_no_class():
    with pytest.raises(ValueError, match=r"^@serve\.ingress must be used with a class\.$"):
        serve.ingress(object())(lambda: None)


def test_ingress_refuses_a_class_with_call():
    class Callable:
        def __call__(self):
            pass

    with pytest.raises(ValueError, match=r"^Classes passed to @serve\.ingress may not have __call__ method\.$"):
        serve.ingress(object())(Callable)


def test_ingress_without_an_application_needs_a_builder_method():
    with pytest.raises(ValueError, match="__serve_build_asgi_app__"):
        serve.ingress(None)(type("Empty", (), {}))


def test_a_class_keeps_its_name():
    class Named:
        """Says so."""

    made = serve.ingress(object())(Named)
    assert (made.__name__, made.__qualname__, made.__doc__) == ("Named", Named.__qualname__, "Says so.")
    assert made is not Named
