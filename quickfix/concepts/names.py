"""Names and captions that an edit may move by mistake: what the collateral radar looks at when nothing is given."""

from __future__ import annotations

_ARTISTS = """
Leonardo da Vinci, Michelangelo, Raphael, Sandro Botticelli, Titian, Caravaggio, Tintoretto, Paolo Veronese, Giotto,
Fra Angelico, Piero della Francesca, Andrea Mantegna, Giovanni Bellini, Giorgione, Artemisia Gentileschi, Canaletto,
Giovanni Battista Tiepolo, Giuseppe Arcimboldo, Giorgio de Chirico, Amedeo Modigliani, Umberto Boccioni, Giorgio
Morandi, Lucio Fontana, Albrecht Durer, Hans Holbein, Lucas Cranach, Matthias Grunewald, Caspar David Friedrich, Max
Ernst, Paul Klee, Franz Marc, August Macke, Ernst Ludwig Kirchner, Otto Dix, George Grosz, Kathe Kollwitz, Emil Nolde,
Gerhard Richter, Anselm Kiefer, Gustav Klimt, Egon Schiele, Oskar Kokoschka, Alphonse Mucha, Friedensreich
Hundertwasser, Jan van Eyck, Rogier van der Weyden, Hieronymus Bosch, Pieter Bruegel, Rembrandt, Johannes Vermeer,
Frans Hals, Jacob van Ruisdael, Jan Steen, Peter Paul Rubens, Anthony van Dyck, Vincent van Gogh, Piet Mondrian, Theo
van Doesburg, M. C. Escher, Karel Appel, Willem de Kooning, James Ensor, Rene Magritte, Paul Delvaux, Nicolas Poussin,
Claude Lorrain, Antoine Watteau, Francois Boucher, Jean-Honore Fragonard, Jacques-Louis David, Jean-Auguste-Dominique
Ingres, Theodore Gericault, Eugene Delacroix, Gustave Courbet, Jean-Francois Millet, Camille Corot, Honore Daumier,
Gustave Dore, Edouard Manet, Claude Monet, Pierre-Auguste Renoir, Edgar Degas, Camille Pissarro, Alfred Sisley, Berthe
Morisot, Gustave Caillebotte, Paul Cezanne, Paul Gauguin, Georges Seurat, Paul Signac, Henri de Toulouse-Lautrec,
Henri Rousseau, Odilon Redon, Gustave Moreau, Pierre Bonnard, Edouard Vuillard, Henri Matisse, Andre Derain, Maurice
de Vlaminck, Raoul Dufy, Georges Braque, Fernand Leger, Robert Delaunay, Sonia Delaunay, Marcel Duchamp, Francis
Picabia, Yves Tanguy, Yves Klein, Jean Dubuffet, Victor Vasarely, Marc Chagall, El Greco, Diego Velazquez, Francisco
de Zurbaran, Francisco Goya, Joaquin Sorolla, Pablo Picasso, Juan Gris, Joan Miro, Salvador Dali, Antoni Tapies,
Remedios Varo, William Hogarth, Joshua Reynolds, Thomas Gainsborough, George Stubbs, William Blake, John Constable,
William Turner, Dante Gabriel Rossetti, John Everett Millais, Edward Burne-Jones, William Morris, John William
Waterhouse, Aubrey Beardsley, Beatrix Potter, L. S. Lowry, Francis Bacon, Lucian Freud, David Hockney, Bridget Riley,
Banksy, Edvard Munch, Vilhelm Hammershoi, Carl Larsson, John Bauer, Akseli Gallen-Kallela, Hilma af Klint, Andrei
Rublev, Ilya Repin, Ivan Aivazovsky, Ivan Shishkin, Isaac Levitan, Mikhail Vrubel, Wassily Kandinsky, Kazimir
Malevich, Alexander Rodchenko, El Lissitzky, Natalia Goncharova, Ivan Bilibin, Tamara de Lempicka, Zdzislaw Beksinski,
Frantisek Kupka, Constantin Brancusi, Winslow Homer, James McNeill Whistler, John Singer Sargent, Mary Cassatt, Thomas
Cole, Albert Bierstadt, Frederic Edwin Church, Grant Wood, Edward Hopper, Georgia O'Keeffe, Norman Rockwell, Andrew
Wyeth, Maxfield Parrish, N. C. Wyeth, Jackson Pollock, Mark Rothko, Barnett Newman, Helen Frankenthaler, Robert
Rauschenberg, Jasper Johns, Cy Twombly, Andy Warhol, Roy Lichtenstein, Keith Haring, Jean-Michel Basquiat, Agnes
Martin, Frank Stella, Ansel Adams, Frank Frazetta, Bob Ross, Emily Carr, Diego Rivera, Frida Kahlo, Jose Clemente
Orozco, Rufino Tamayo, Fernando Botero, Tarsila do Amaral, Wifredo Lam, Katsushika Hokusai, Utagawa Hiroshige,
Kitagawa Utamaro, Utagawa Kuniyoshi, Sesshu Toyo, Ogata Korin, Ito Jakuchu, Yayoi Kusama, Takashi Murakami, Hayao
Miyazaki, Osamu Tezuka, Katsuhiro Otomo, Junji Ito, Qi Baishi, Xu Beihong, Raja Ravi Varma, Amrita Sher-Gil, Jamini
Roy, Albert Namatjira, Sidney Nolan, H. R. Giger, Moebius, Herge, Alex Ross, Jack Kirby, Walt Disney, Tim Burton, Dr.
Seuss, Studio Ghibli, Pixar
"""

_THINGS = """
dog, cat, horse, cow, sheep, goat, pig, rabbit, fox, wolf, bear, lion, tiger, elephant, giraffe, zebra, monkey,
gorilla, kangaroo, penguin, owl, eagle, parrot, swan, duck, chicken, fish, clownfish, shark, whale, dolphin, octopus,
turtle, frog, snake, lizard, dinosaur, dragon, unicorn, butterfly, bee, spider, beagle, poodle, kitten, puppy, teddy
bear, robot, astronaut, knight, wizard, witch, pirate, king, queen, princess, soldier, doctor, chef, farmer, teacher,
dancer, singer, president, prime minister, baby, child, man, woman, old man, old woman, bride, family, crowd, car,
truck, bus, bicycle, motorcycle, train, airplane, helicopter, rocket, spaceship, boat, sailing ship, submarine,
bridge, castle, church, temple, house, cabin, skyscraper, lighthouse, windmill, tower, Eiffel Tower, Statue of
Liberty, Big Ben, Taj Mahal, Golden Gate Bridge, Great Wall of China, pyramid, street, road, village, city, park,
garden, beach, island, sea, ocean, lake, river, waterfall, mountain, volcano, desert, forest, jungle, field, meadow,
cave, sky, cloud, rainbow, lightning, storm, snow, rain, fog, sunset, sunrise, night sky, stars, moon, planet, galaxy,
tree, palm tree, flower, rose, tulip, sunflowers, lotus, cactus, mushroom, grass, leaf, apple, banana, orange, lemon,
strawberry, grapes, bread, cheese, pizza, burger, sushi, ramen, cake, ice cream, chocolate, coffee, tea, wine, beer,
table, chair, sofa, bed, lamp, clock, mirror, window, door, book, newspaper, letter, pen, key, coin, crown, sword,
shield, hat, shoe, dress, suit, glasses, umbrella, bag, guitar, piano, violin, drum, camera, phone, computer,
television, toy, ball, balloon, kite, candle, fire, ice, water, stone, gold, glass, wood, circle, square, triangle,
star, heart, cross, ring, diamond, spiral, checkerboard
"""

_LOOKS = """
photograph, painting, oil painting, watercolor, acrylic painting, pastel, pencil drawing, charcoal drawing, ink
drawing, etching, woodcut, sculpture, marble statue, stained glass, mosaic, tapestry, embroidery, origami, paper cut,
collage, graffiti, mural, poster, postage stamp, comic, manga, anime, cartoon, pixel art, low poly, 3d render,
claymation, isometric, blueprint, line art, silhouette, impressionism, expressionism, cubism, surrealism, pointillism,
fauvism, pop art, op art, art nouveau, art deco, baroque, rococo, renaissance, gothic, romanticism, realism,
minimalism, abstract art, ukiyo-e, chinese ink painting, persian miniature, byzantine icon, cave painting, cyberpunk,
steampunk, vaporwave, fantasy, science fiction, film noir, black and white, sepia, polaroid, macro photo, portrait,
landscape, still life
"""

_CAPTIONS = (
    "a photo of a dog",
    "a photo of a cat on a sofa",
    "a portrait of a woman",
    "a portrait of a man with a beard",
    "a house by the sea",
    "a street in the rain at night",
    "a forest in autumn",
    "a bowl of fruit on a table",
    "a vase of flowers",
    "a city skyline at sunset",
    "children playing in a park",
    "an old boat on a beach",
    "a red car on a road",
    "a cup of coffee",
    "a mountain lake",
    "a starry night over a village",
    "a field of sunflowers",
    "a cafe terrace at night",
    "wheat fields under a blue sky",
    "a cartoon character",
    "best quality, masterpiece, highly detailed",
    "low quality, blurry, watermark, text",
)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


ARTISTS = _listed(_ARTISTS)
KNOWN_NAMES = tuple(dict.fromkeys((*ARTISTS, *_listed(_THINGS), *_listed(_LOOKS), *_CAPTIONS)))
